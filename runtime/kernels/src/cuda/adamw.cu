// AdamW over parameters that are on a GPU, every number read and written once, and the sum of squares of a gradient:
// what `adamw.rs` does on the CPU. Compiled while running; THREADS is defined by `adamw.rs`.

struct Update {
  float scale, mean_weight, square_weight, epsilon, decay, rate, correction;
};

__device__ inline float load_bf16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

__device__ inline float number_of(const void *gradient, int is_bf16, long long at) {
  return is_bf16 ? load_bf16(((const unsigned short *)gradient)[at]) : ((const float *)gradient)[at];
}

// Parameters are f32; or, where there is a `low`, bf16 numbers with low halves, see `AdamWParameters::Split`. A
// gradient is bf16 where `is_bf16`.
extern "C" __global__ void step(void *values, short *low, float *mean, float *square, const void *gradient, int is_bf16, long long count,
                                Update update) {
  const long long stride = (long long)gridDim.x * THREADS;
  for (long long at = (long long)blockIdx.x * THREADS + threadIdx.x; at < count; at += stride) {
    const float number = number_of(gradient, is_bf16, at) * update.scale;
    float first = mean[at], second = square[at];
    first = (first - first * update.mean_weight) + number * update.mean_weight;
    second = (second - second * update.square_weight) + number * number * update.square_weight;
    mean[at] = first;
    square[at] = second;
    const float denominator = sqrtf(second * update.correction) + update.epsilon;
    float parameter;
    if (low) {
      // Rounding up carried 1 into the high half where the low one is negative.
      const unsigned carried = ((unsigned short *)values)[at] - (low[at] < 0);
      parameter = __uint_as_float(carried << 16 | (unsigned short)low[at]);
    } else {
      parameter = ((float *)values)[at];
    }
    parameter = parameter - (parameter * update.decay + update.rate * first / denominator);
    if (low) {
      const unsigned bits = __float_as_uint(parameter);
      ((unsigned short *)values)[at] = (bits + 0x8000) >> 16;
      low[at] = (short)bits;
    } else {
      ((float *)values)[at] = parameter;
    }
  }
}

// Of each block the sum of its numbers' squares: each thread's, then all threads' in one order.
extern "C" __global__ void sum_of_squares(const void *gradient, int is_bf16, long long count, double *sums) {
  __shared__ double parts[THREADS];
  const long long stride = (long long)gridDim.x * THREADS;
  double sum = 0.0;
  for (long long at = (long long)blockIdx.x * THREADS + threadIdx.x; at < count; at += stride) {
    const double number = number_of(gradient, is_bf16, at);
    sum += number * number;
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (int others = THREADS / 2; others > 0; others /= 2) {
    if (threadIdx.x < others) parts[threadIdx.x] += parts[threadIdx.x + others];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}
