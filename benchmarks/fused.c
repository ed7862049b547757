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

void cross_entropy_gradient(const float *score, const float *label, float weight, float *out,
                            long count) {
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

void squared_error_gradient(const float *prediction, const float *target, float weight, float *out,
                            long count) {
#pragma omp parallel for simd
  for (long i = 0; i < count; ++i) out[i] = weight * (prediction[i] - target[i]);
}
