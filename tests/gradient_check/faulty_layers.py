"""A right layer, and layers with one fault each, for the tests of the gradient checker."""

import caffe
import numpy as np


class MaskedEuclidean(caffe.Layer):
    """Right: loss_weight / (2N) times the sum of mask (x - t)^2, the mask being optional."""

    def setup(self, bottom, top):
        self.previous = 0.0
        self.total = 0.0

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.mask = bottom[2].data > 0 if len(bottom) == 3 else np.ones(1)
        self.difference = bottom[0].data.astype(np.float64) - bottom[1].data
        self.images = len(self.difference)
        top[0].data[0] = (self.mask * self.difference**2).sum() / (2 * self.images)

    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.images

    def backward(self, top, propagate_down, bottom):
        gradient = self.gradient(top[0].diff[0])
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * gradient
        if len(bottom) == 3 and propagate_down[2]:
            bottom[2].diff[...] = 0


class LossAndDifference(MaskedEuclidean):
    """Right: a second top, without a loss weight, is for people to look at."""

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        top[1].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[1].data[...] = self.difference


class Step(caffe.Layer):
    """Has no derivative at 0, and is infinite above."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.where(bottom[0].data > 0, np.inf, 0)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0


class Tanh(caffe.Layer):
    """Right: an element-wise layer that is no loss."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.tanh(bottom[0].data)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * (1 - top[0].data ** 2)


class Shift(caffe.Layer):
    """Right: adds a parameter to each channel."""

    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].shape[1])
        self.blobs[0].data[...] = np.arange(bottom[0].shape[1])

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = (bottom[0].data.swapaxes(1, -1) + self.blobs[0].data).swapaxes(1, -1)

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.swapaxes(0, 1).reshape(top[0].shape[1], -1).sum(1)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff


class ShiftWithoutParameterGradient(Shift):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


class MissingNormaliser(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference


class DoubledNormaliser(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.images**2


class CountNormaliser(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.images / self.difference.size


class ValidNormaliser(MaskedEuclidean):
    def gradient(self, loss_weight):
        return (
            super().gradient(loss_weight) / np.broadcast_to(self.mask, self.difference.shape).sum()
        )


class IgnoresLossWeight(MaskedEuclidean):
    def gradient(self, loss_weight):
        return super().gradient(1)


class LossWeightTwice(MaskedEuclidean):
    def gradient(self, loss_weight):
        return super().gradient(loss_weight**2)


class SignFlipped(MaskedEuclidean):
    def gradient(self, loss_weight):
        return -super().gradient(loss_weight)


class AllZero(MaskedEuclidean):
    def gradient(self, loss_weight):
        return 0 * self.difference


class NeverWritten(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        pass


class FirstImageWritten(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[0] = self.gradient(top[0].diff[0])[0]
        bottom[1].diff[...] = -self.gradient(top[0].diff[0])


class ChannelDoubled(MaskedEuclidean):
    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        gradient[:, 1] *= 2
        return gradient


class UnmaskedGradient(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.difference / self.images


class ZeroWhereMasked(MaskedEuclidean):
    """The loss takes every position, with weight 1 or 2; the gradient only those of weight 2."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[0] = ((1 + self.mask) * self.difference**2).sum() / (2 * self.images)

    def gradient(self, loss_weight):
        return 2 * super().gradient(loss_weight)


class Transposed(MaskedEuclidean):
    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        return gradient.swapaxes(-1, -2).reshape(gradient.shape)


class Stale(MaskedEuclidean):
    def forward(self, bottom, top):
        self.previous = getattr(self, "difference", 0 * bottom[0].data)
        super().forward(bottom, top)

    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.previous / self.images


class Accumulates(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] += self.gradient(top[0].diff[0])
        bottom[1].diff[...] = -self.gradient(top[0].diff[0])


class AccumulatesInside(MaskedEuclidean):
    def forward(self, bottom, top):
        if (
            not hasattr(self, "difference")
            or (self.difference != bottom[0].data.astype(np.float64) - bottom[1].data).any()
        ):
            self.total = 0.0
        super().forward(bottom, top)

    def gradient(self, loss_weight):
        self.total = self.total + super().gradient(loss_weight)
        return self.total


class RandomForward(MaskedEuclidean):
    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[0] *= np.random.uniform(0.9, 1.1)


class RandomBackward(MaskedEuclidean):
    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        return gradient * np.random.uniform(0.9, 1.1, gradient.shape)


class MaskGetsGradient(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        bottom[2].diff[...] = self.gradient(top[0].diff[0])[:, :1]


class NotFinite(MaskedEuclidean):
    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        gradient[-1, 0] = np.nan
        return gradient


class OneElementWrong(MaskedEuclidean):
    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        gradient.flat[np.abs(gradient).argmax()] *= 1.5
        return gradient


class SlightlyWrongAndNoisy(MaskedEuclidean):
    """The loss is so large that float32 does not show what a single element adds to it."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[0] += 1e5

    def gradient(self, loss_weight):
        return 1.005 * super().gradient(loss_weight)


# The faults of the published layers.


class PublishedWeightedEuclidean(MaskedEuclidean):
    """Divides the loss by the sum of the weights, but not the gradient."""

    def weigh(self, bottom):
        positive = bottom[2].data > 0
        share = positive.mean()
        return np.where(positive, 1 - share, share) * np.ones_like(bottom[0].data)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        self.mask = self.weigh(bottom)
        top[0].data[0] = (self.mask * self.difference**2).sum() / self.mask.sum() / 2

    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference


class PublishedImages(MaskedEuclidean):
    """Weighs the first image only, in the gradient."""

    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        gradient[1:] = 0
        return gradient


class PublishedChannels(MaskedEuclidean):
    """Weighs the first two channels only, in the gradient."""

    def gradient(self, loss_weight):
        gradient = super().gradient(loss_weight)
        gradient[:, 2:] = 0
        return gradient


class PublishedNoTargetGradient(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        bottom[1].diff[...] = 0


class PublishedSigmoidCrossEntropy(caffe.Layer):
    """Overflows below -88, and heeds neither loss_weight nor propagate_down."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        x, t = bottom[0].data, bottom[1].data
        self.difference = 1 / (1 + np.exp(-x)) - t
        top[0].data[0] = (np.log(1 + np.exp(-x)) + (1 - t) * x).sum()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.difference
        bottom[1].diff[...] = -self.difference


class PublishedBroadcast(MaskedEuclidean):
    """Scores (N, 1) less labels (N,) are (N, N)."""

    def gradient(self, loss_weight):
        return super().gradient(loss_weight)[:, :1]

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.gradient(top[0].diff[0])
        bottom[1].diff[...] = 0


class PublishedChannelSum(MaskedEuclidean):
    """The loss is that of the sums over channels; the gradient that of each channel alone."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[0] = (self.difference.sum(axis=1) ** 2).sum() / (2 * self.images)


class FaultyTanh(Tanh):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * (1 - top[0].data)
