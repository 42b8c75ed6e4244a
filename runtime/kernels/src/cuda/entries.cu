// `entries.rs` on a GPU: sums over next-token distributions, and gradients by entry. A side is
// log-probabilities `[rows, width]`; or logits and their logsumexp, `[rows]`, which is subtracted when they
// are read. Compiled at run time; THREADS is defined by `cuda/entries.rs`.

struct Side {
  const float *logits, *normalizers;
};

// One row of a side.
struct Row {
  const float *logits;
  float normalizer;

  __device__ Row(Side side, long long row, long long width)
      : logits(side.logits + row * width), normalizer(side.normalizers ? side.normalizers[row] : 0.0f) {}

  __device__ float logp(long long at) const { return logits[at] - normalizer; }
};

// `p (l - r) - p + q`, the summand of the generalized KL divergence.
struct Kl {
  __device__ static float of(float l, float r) {
    const float p = expf(l), q = expf(r);
    return p * (l - r) - p + q;
  }
};

struct Entropy {
  __device__ static float of(float l, float) { return -expf(l) * l; }
};

// d generalized KL divergence / d log-probability.
struct KlByLeft {
  __device__ static float of(float l, float r) { return expf(l) * (l - r); }
  __device__ static float own(float l, float) { return l; }
};

struct KlByRight {
  __device__ static float of(float l, float r) { return expf(r) - expf(l); }
  __device__ static float own(float, float r) { return r; }
};

__device__ inline unsigned short round_to_bf16(float number) {
  if (isnan(number)) return 0x7fff;
  const unsigned bits = __float_as_uint(number);
  return (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Sums over a row, for all threads of its block: each thread's entries in f64, then threads in fixed order.
template <typename F> __device__ inline double sum_of_row(const Row &l, const Row &r, long long width) {
  __shared__ double parts[THREADS];
  double sum = 0.0;
  for (long long at = threadIdx.x; at < width; at += THREADS) sum += F::of(l.logp(at), r.logp(at));
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  return parts[0];
}

// Sums of rows, one block per row.
template <typename F> __device__ inline void sums(Side l, Side r, long long width, float *to) {
  const double sum = sum_of_row<F>(Row(l, blockIdx.x, width), Row(r, blockIdx.x, width), width);
  if (threadIdx.x == 0) to[blockIdx.x] = sum;
}

extern "C" __global__ void sum_kl(Side l, Side r, long long width, float *to) { sums<Kl>(l, r, width, to); }

extern "C" __global__ void sum_entropy(Side l, Side r, long long width, float *to) { sums<Entropy>(l, r, width, to); }

// The logsumexp of rows, one block per row. Every thread has the largest of its entries and a sum of
// exponentials relative to it (arXiv:1805.02867); then all threads' are added in fixed order.
extern "C" __global__ void normalizers(const float *logits, long long width, float *to) {
  __shared__ double sums[THREADS];
  __shared__ float largests[THREADS];
  logits += blockIdx.x * width;
  // Not above any logit, and finite: infinity minus infinity is NaN.
  float largest = -3.402823466e38f;
  double sum = 0.0;
  for (long long at = threadIdx.x; at < width; at += THREADS) {
    const float logit = logits[at], above = fmaxf(largest, logit);
    sum = sum * expf(largest - above) + expf(logit - above);
    largest = above;
  }
  sums[threadIdx.x] = sum, largests[threadIdx.x] = largest;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float own = largests[threadIdx.x], other = largests[threadIdx.x + half], above = fmaxf(own, other);
      sums[threadIdx.x] = sums[threadIdx.x] * expf(own - above) + sums[threadIdx.x + half] * expf(other - above);
      largests[threadIdx.x] = above;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) to[blockIdx.x] = largests[0] + log(sums[0]);
}

// The blocks of a row share its entries. 0 where the row's factor is 0, even if the gradient is infinite.
template <typename F> __device__ inline void gradients(Side l, Side r, long long width, const float *factors, float *to) {
  const Row left(l, blockIdx.x, width), right(r, blockIdx.x, width);
  const float factor = factors[blockIdx.x];
  to += blockIdx.x * width;
  for (long long at = blockIdx.y * THREADS + threadIdx.x; at < width; at += gridDim.y * THREADS)
    to[at] = factor == 0.0f ? 0.0f : F::of(left.logp(at), right.logp(at)) * factor;
}

extern "C" __global__ void gradient_kl_by_left(Side l, Side r, long long width, const float *factors, float *to) {
  gradients<KlByLeft>(l, r, width, factors, to);
}

extern "C" __global__ void gradient_kl_by_right(Side l, Side r, long long width, const float *factors, float *to) {
  gradients<KlByRight>(l, r, width, factors, to);
}

// Gradients by the logits of the side that has a gradient: g - p sum(g). One block per row. `to` may be a
// side's logits: a thread reads an entry before it writes it, and the row's sum was taken before.
template <typename F>
__device__ inline void gradients_by_logits(Side l, Side r, long long width, const float *factors, void *to, int is_bf16) {
  const Row left(l, blockIdx.x, width), right(r, blockIdx.x, width);
  const float factor = factors[blockIdx.x];
  const float whole = factor == 0.0f ? 0.0f : sum_of_row<F>(left, right, width);
  for (long long at = threadIdx.x; at < width; at += THREADS) {
    float gradient = 0.0f;
    if (factor != 0.0f) {
      const float a = left.logp(at), b = right.logp(at);
      gradient = (F::of(a, b) - expf(F::own(a, b)) * whole) * factor;
    }
    const long long place = blockIdx.x * width + at;
    if (is_bf16)
      ((unsigned short *)to)[place] = round_to_bf16(gradient);
    else
      ((float *)to)[place] = gradient;
  }
}

extern "C" __global__ void kl_by_left_logits(Side l, Side r, long long width, const float *factors, void *to, int is_bf16) {
  gradients_by_logits<KlByLeft>(l, r, width, factors, to, is_bf16);
}

extern "C" __global__ void kl_by_right_logits(Side l, Side r, long long width, const float *factors, void *to, int is_bf16) {
  gradients_by_logits<KlByRight>(l, r, width, factors, to, is_bf16);
}

// Each block zeroes one row of `bytes` bytes if its factor is 0.
extern "C" __global__ void zero_rows(unsigned char *rows, long long bytes, const float *factors) {
  if (factors[blockIdx.x] != 0.0f) return;
  unsigned char *row = rows + blockIdx.x * bytes;
  if (bytes % 4 == 0)
    for (long long at = threadIdx.x; at < bytes / 4; at += THREADS) ((unsigned *)row)[at] = 0;
  else
    for (long long at = threadIdx.x; at < bytes; at += THREADS) row[at] = 0;
}
