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


class Positives(caffe.Layer):
    """Right: the elements above 0, as many as there are."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        above = bottom[0].data[bottom[0].data > 0]
        top[0].reshape(len(above))
        top[0].data[...] = above

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
        bottom[0].diff[bottom[0].data > 0] = top[0].diff


class ShiftWithoutParameterGradient(Shift):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


class MissingDivisor(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference


class DoubledDivisor(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.images**2


class CountDivisor(MaskedEuclidean):
    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.images / self.difference.size


class ValidDivisor(MaskedEuclidean):
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
        self.previous = getattr(self, "difference", 0.0) * getattr(self, "mask", 0.0)
        super().forward(bottom, top)

    def gradient(self, loss_weight):
        return loss_weight * self.previous / self.images


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


class ChangesTopDiff(MaskedEuclidean):
    """Doubles top[0].diff, which Caffe writes once: each backward is twice the one before."""

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        top[0].diff[0] *= 2


class ForwardChangesBottom(MaskedEuclidean):
    """Clears the prediction where it is masked, in place."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        bottom[0].data[...] *= self.mask


class BackwardChangesBottom(MaskedEuclidean):
    """Takes the bottom's data for scratch memory."""

    def backward(self, top, propagate_down, bottom):
        bottom[0].data[...] = self.gradient(top[0].diff[0])
        super().backward(top, propagate_down, bottom)


class StaleDivisor(MaskedEuclidean):
    """Right but for backward, which divides by the sum of the previous mask."""

    def forward(self, bottom, top):
        self.previous_sum = getattr(self, "sum", 1.0)
        super().forward(bottom, top)
        self.sum = self.mask.sum()
        top[0].data[0] *= self.images / self.sum

    def gradient(self, loss_weight):
        return loss_weight * self.mask * self.difference / self.previous_sum


class StaleMask(MaskedEuclidean):
    """Backward takes the mask that the layer saw before."""

    def forward(self, bottom, top):
        self.previous_mask = getattr(self, "mask", 0.0)
        super().forward(bottom, top)

    def gradient(self, loss_weight):
        return loss_weight * self.previous_mask * self.difference / self.images


class StaleForward(MaskedEuclidean):
    """The loss, too, is divided by the sum of the previous mask."""

    def forward(self, bottom, top):
        previous = getattr(self, "sum", 1.0)
        super().forward(bottom, top)
        self.images, self.sum = previous, self.mask.sum()
        top[0].data[0] = (self.mask * self.difference**2).sum() / (2 * previous)


class MixedFlags(MaskedEuclidean):
    """Asks for the flag of the other bottom."""

    def backward(self, top, propagate_down, bottom):
        super().backward(top, [propagate_down[i] for i in (1, 0, 2)], bottom)


class IgnoresFlags(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, [True] * 3, bottom)


class FailingBackward(MaskedEuclidean):
    def backward(self, top, propagate_down, bottom):
        raise NotImplementedError("no backward yet")


class ExitingForward(MaskedEuclidean):
    """Ends the process where people want an error, as published layers do for a NaN."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        raise SystemExit("loss is NaN")


class WrongConstant(MaskedEuclidean):
    """Four times too much: a constant, whatever the batch size is."""

    def gradient(self, loss_weight):
        return 4 * super().gradient(loss_weight)


class OneThousandthOff(MaskedEuclidean):
    """Below the threshold."""

    def gradient(self, loss_weight):
        return 1.0003 * super().gradient(loss_weight)


class DoubledSum(caffe.Layer):
    """Linear; the gradient is twice that of the sum."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = bottom[0].data.sum()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff[0]


class OverwritesParameterDiff(Shift):
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] = 0
        super().backward(top, propagate_down, bottom)


class ChecksParameters(MaskedEuclidean):
    """Right, with a parameter that it insists on."""

    def setup(self, bottom, top):
        super().setup(bottom, top)
        if self.param_str != "margin: 1":
            raise ValueError(f"ChecksParameters: param_str must give the margin: {self.param_str}")


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


# Right layers that are awkward to check.


class Loss(caffe.Layer):
    """A loss of prediction and target, whose value and slope are in `pointwise`."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        x, t = (bottom[i].data.astype(np.float64) for i in range(2))
        values, self.slope = self.pointwise(x, t)
        self.slope /= len(x)
        top[0].data[0] = values.sum() / len(x)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff[0] * self.slope
        if propagate_down[1]:
            self.to_target(top, bottom)

    def to_target(self, top, bottom):
        bottom[1].diff[...] = 0


class AbsoluteError(Loss):
    """A kink at every target."""

    def pointwise(self, x, t):
        return np.abs(x - t), np.sign(x - t)

    def to_target(self, top, bottom):
        bottom[1].diff[...] = -top[0].diff[0] * self.slope


class Hinge(Loss):
    """A kink at 1 or -1, for labels 0 and 1."""

    def pointwise(self, x, t):
        sign = 2 * t - 1
        return np.maximum(0, 1 - sign * x), np.where(sign * x < 1, -sign, 0)


class WeakClass(Loss):
    """Positions of class 1 weigh a ten thousandth of those of class 0."""

    weight = 1e-4

    def pointwise(self, x, t):
        weights = np.where(t > 0, self.weight, 1)
        return weights * x**2 / 2, weights * x


class BalancedClasses(Loss):
    """Positions weigh one over the count of their class in the batch."""

    def pointwise(self, x, t):
        _, classes, counts = np.unique(t, return_inverse=True, return_counts=True)
        weights = (1 / counts)[classes].reshape(t.shape)
        return weights * x**2 / 2, weights * x


class NeedsAllClasses(BalancedClasses):
    """Takes no batch that lacks one of the classes 0 to 4."""

    def pointwise(self, x, t):
        if set(t.ravel()) != set(range(5)):
            raise ValueError("a class is missing")
        return super().pointwise(x, t)


class RefusesLabels(AbsoluteError):
    """As Caffe's losses do for labels."""

    def to_target(self, top, bottom):
        raise Exception("Layer cannot backpropagate to label inputs.")


class GradientInForward(AbsoluteError):
    """Its forward leaves the gradient in the bottom's diff, and backward scales it."""

    def pointwise(self, x, t):
        return (x - t) ** 2 / 2, x - t

    def forward(self, bottom, top):
        super().forward(bottom, top)
        bottom[0].diff[...] = self.slope

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] *= top[0].diff[0]
        if propagate_down[1]:
            self.to_target(top, bottom)


class WeakClassMissing(WeakClass):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        positive = np.broadcast_to(bottom[1].data > 0, bottom[0].shape)
        bottom[0].diff[positive] = 0


class WeakerClassMissing(WeakClassMissing):
    weight = 1e-5


class WeakChannelMissing(Loss):
    def pointwise(self, x, t):
        weights = np.ones_like(x)
        weights[:, 1] = 1e-4
        slope = weights * x
        slope[:, 1] = 0
        return weights * x**2 / 2, slope
