// Sums over the entries of next-token distributions, and gradients by entry, from log-probabilities `[rows, width]`
// on two sides: what `entries.rs` does on the CPU. Compiled while running; THREADS is
// defined by `entries.rs`.


// `p (l - r) - p + q`, the summand of the generalized KL divergence.
__device__ inline float kl(float l, float r) {
  const float p = expf(l), q = expf(r);
  return p * (l - r) - p + q;
}

__device__ inline float entropy(float l, float) { return -expf(l) * l; }

__device__ inline float kl_by_left(float l, float r) { return expf(l) * (l - r); }

__device__ inline float kl_by_right(float l, float r) { return expf(r) - expf(l); }

// A block is a row: each thread's entries in f64, then all threads' in one order.
template <typename F> __device__ inline void sums(F summand, const float *l, const float *r, long long width, float *to) {
  __shared__ double parts[THREADS];
  l += blockIdx.x * width, r += blockIdx.x * width;
  double sum = 0.0;
  for (long long at = threadIdx.x; at < width; at += THREADS) sum += summand(l[at], r[at]);
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) to[blockIdx.x] = parts[0];
}

// Blocks of a row share its entries. 0 where the factor of the row is, also of an infinite gradient.
template <typename F>
__device__ inline void gradients(F gradient, const float *l, const float *r, long long width, const float *factors, float *to) {
  const long long row = blockIdx.x * width;
  const float factor = factors[blockIdx.x];
  for (long long at = blockIdx.y * THREADS + threadIdx.x; at < width; at += gridDim.y * THREADS)
    to[row + at] = factor == 0.0f ? 0.0f : gradient(l[row + at], r[row + at]) * factor;
}

extern "C" __global__ void sum_kl(const float *l, const float *r, long long width, float *to) { sums(kl, l, r, width, to); }

extern "C" __global__ void sum_entropy(const float *l, const float *r, long long width, float *to) {
  sums(entropy, l, r, width, to);
}

extern "C" __global__ void gradient_kl_by_left(const float *l, const float *r, long long width, const float *factors, float *to) {
  gradients(kl_by_left, l, r, width, factors, to);
}

extern "C" __global__ void gradient_kl_by_right(const float *l, const float *r, long long width, const float *factors, float *to) {
  gradients(kl_by_right, l, r, width, factors, to);
}
