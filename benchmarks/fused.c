/* What a compiled kernel that fuses all passes would take: the measure of what NumPy costs.
 *
 * contestants.py compiles this where there is a C compiler. The functions compute what the layers
 * compute for labels 0 and 1, element by element, with a weight of 1 for class 0.
 */
#include <math.h>

enum { ROW = 4096 }; /* elements that are summed in float before double takes over */

static long end_of_row(long start, long count) {
  return start + ROW < count ? start + ROW : count;
}

double cross_entropy(const float *score, const float *label, float weight, long count) {
  double total = 0;
#pragma omp parallel for reduction(+ : total)
  for (long start = 0; start < count; start += ROW) {
    float sum = 0;
    long end = end_of_row(start, count);
#pragma omp simd reduction(+ : sum)
    for (long i = start; i < end; ++i) {
      float z = score[i] - 2 * label[i] * score[i];
      float e = expf(-fabsf(z));
      float rounded = 1.00000012f + e;
      float softplus = fmaxf(z, 0) + e * logf(rounded) / (rounded - 1);
      sum += (1 + (weight - 1) * label[i]) * softplus;
    }
    total += sum;
  }
  return total;
}

void cross_entropy_gradient(const float *score, const float *label, float weight, long count,
                            float *out) {
#pragma omp parallel for simd
  for (long i = 0; i < count; ++i) {
    float z = score[i] - 2 * label[i] * score[i];
    out[i] = (1 - (weight + 1) * label[i]) / (1 + expf(-z));
  }
}

double squared_error(const float *prediction, const float *target, float weight, long count) {
  double total = 0;
#pragma omp parallel for reduction(+ : total)
  for (long start = 0; start < count; start += ROW) {
    float sum = 0;
    long end = end_of_row(start, count);
#pragma omp simd reduction(+ : sum)
    for (long i = start; i < end; ++i) {
      float difference = prediction[i] - target[i];
      sum += difference * difference;
    }
    total += sum;
  }
  return weight * total / 2;
}

void squared_error_gradient(const float *prediction, const float *target, float weight, long count,
                            float *out) {
#pragma omp parallel for simd
  for (long i = 0; i < count; ++i) out[i] = weight * (prediction[i] - target[i]);
}

/* What a position weighs: each class of an image has half of the image's share of 1 / images. */
static float weight_of(long members, long images, long channels) {
  return members ? 0.5f / members / images / channels : 0;
}

static void weigh(const float *mask, long images, long channels, long positions, float *negative,
                  float *positive) {
  long ones = 0;
#pragma omp simd reduction(+ : ones)
  for (long i = 0; i < positions; ++i) ones += mask[i] > 0;
  *negative = weight_of(positions - ones, images, channels);
  *positive = weight_of(ones, images, channels);
}

double weighted_squared_error(const float *prediction, const float *target, const float *mask,
                              long images, long channels, long positions) {
  double total = 0;
#pragma omp parallel for reduction(+ : total)
  for (long image = 0; image < images; ++image) {
    const float *own = mask + image * positions;
    float negative, positive;
    weigh(own, images, channels, positions, &negative, &positive);
    for (long channel = 0; channel < channels; ++channel) {
      long first = (image * channels + channel) * positions;
      for (long start = 0; start < positions; start += ROW) {
        float sum = 0;
        long end = end_of_row(start, positions);
#pragma omp simd reduction(+ : sum)
        for (long i = start; i < end; ++i) {
          float difference = prediction[first + i] - target[first + i];
          sum += (negative + (positive - negative) * own[i]) * difference * difference;
        }
        total += sum;
      }
    }
  }
  return total / 2;
}

void weighted_squared_error_gradient(const float *prediction, const float *target,
                                     const float *mask, long images, long channels, long positions,
                                     float *out) {
#pragma omp parallel for
  for (long image = 0; image < images; ++image) {
    const float *own = mask + image * positions;
    float negative, positive;
    weigh(own, images, channels, positions, &negative, &positive);
    for (long channel = 0; channel < channels; ++channel) {
      long first = (image * channels + channel) * positions;
#pragma omp simd
      for (long i = 0; i < positions; ++i)
        out[first + i] = (negative + (positive - negative) * own[i]) *
                         (prediction[first + i] - target[first + i]);
    }
  }
}
