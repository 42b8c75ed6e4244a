// A decoding step of a batch: the operations of a layer between its matrix products. Compiled at run time,
// for one model and one GPU: sizes are constants that `decode.rs` defines.
//
//   HEADS, GROUPS        heads of queries, of keys and values
//   WIDTH                numbers per head
//   HALF                 1: numbers are bf16, 0: f32. Sums are f32 in both cases
//   WARPS, TOGETHER      warps per block of `attend`, and heads per block
//   LANES, PER           in `attend`: lanes that share a head, and numbers per lane, a multiple of 8
//
// The position of the new token is read from memory, so that a captured step can be replayed.

#if HALF
typedef unsigned short T;

__device__ inline float load(T bits) { return __uint_as_float((unsigned)bits << 16); }

// To the nearest, ties to even.
__device__ inline T round_to(float number) {
  if (isnan(number)) return 0x7fff;
  unsigned bits = __float_as_uint(number);
  return (T)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float T;

__device__ inline float load(T number) { return number; }
__device__ inline T round_to(float number) { return number; }
#endif

// Less than every score.
#define LOWEST __int_as_float(0xff800000)

__device__ inline float warp_sum(float number) {
  for (int step = 16; step > 0; step /= 2) number += __shfl_xor_sync(~0u, number, step);
  return number;
}

// COUNT numbers of a row, loaded together: 8 are one load of 16 bytes in bf16, and two loads in f32.
template <int COUNT> struct alignas(COUNT == 8 ? 16 : sizeof(T)) Numbers {
  T of[COUNT];
};

// The sum over all threads of a block of whole warps, returned to each thread.
__device__ inline float block_sum(float number) {
  __shared__ float parts[32];
  number = warp_sum(number);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = number;
  __syncthreads();
  number = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f;
  return warp_sum(number);
}

template <int COUNT>
__device__ inline void add_and_normalise_row(const T *stream, const T *added, const float *scales, float epsilon, T *sum, T *normed,
                                             int width) {
  const int first = threadIdx.x * COUNT, stride = blockDim.x * COUNT;
  float square = 0.0f;
  for (int at = first; at < width; at += stride) {
    Numbers<COUNT> numbers = *(const Numbers<COUNT> *)(stream + at);
    if (added) {
      const Numbers<COUNT> more = *(const Numbers<COUNT> *)(added + at);
      for (int i = 0; i < COUNT; i++) numbers.of[i] = round_to(load(numbers.of[i]) + load(more.of[i]));
      *(Numbers<COUNT> *)(sum + at) = numbers;
    }
    for (int i = 0; i < COUNT; i++) square += load(numbers.of[i]) * load(numbers.of[i]);
  }
  const float factor = rsqrtf(block_sum(square) / width + epsilon);
  const T *whole = added ? sum : stream;
  for (int at = first; at < width; at += stride) {
    Numbers<COUNT> numbers = *(const Numbers<COUNT> *)(whole + at);
    for (int i = 0; i < COUNT; i++) numbers.of[i] = round_to(load(numbers.of[i]) * factor * scales[at + i]);
    *(Numbers<COUNT> *)(normed + at) = numbers;
  }
}

// Adds `added`, if not null, to the stream, `[rows, width]`, with one block per row: writes the `sum`, and
// its RMSNorm with `scales`, `[width]`.
extern "C" __global__ void add_and_normalise(const T *stream, const T *added, const float *scales, float epsilon, T *sum, T *normed,
                                             int width) {
  const long long row = (long long)blockIdx.x * width;
  stream += row, sum += row, normed += row;
  if (added) added += row;
  if (width % 8 == 0)
    add_and_normalise_row<8>(stream, added, scales, epsilon, sum, normed, width);
  else
    add_and_normalise_row<1>(stream, added, scales, epsilon, sum, normed, width);
}

__device__ inline float activate(float number, int gelu) {
  if (!gelu) return number / (1.0f + expf(-number));
  const float cube = number * number * number;
  return 0.5f * number * (1.0f + tanhf(0.7978845608028654f * (number + 0.044715f * cube)));
}

template <int COUNT> __device__ inline void gate_row(const T *gate, const T *up, T *gated, int inner, int gelu) {
  const int at = (blockIdx.y * blockDim.x + threadIdx.x) * COUNT;
  if (at >= inner) return;
  Numbers<COUNT> numbers = *(const Numbers<COUNT> *)(gate + at);
  const Numbers<COUNT> factors = *(const Numbers<COUNT> *)(up + at);
  // Rounded after the activation, as by the trainer's operators.
  for (int i = 0; i < COUNT; i++)
    numbers.of[i] = round_to(load(round_to(activate(load(numbers.of[i]), gelu))) * load(factors.of[i]));
  *(Numbers<COUNT> *)(gated + at) = numbers;
}

// activation(gate) * up, `[rows, inner]`, of gate and up concatenated, `[rows, 2 inner]`.
extern "C" __global__ void gate(const T *gate_up, T *gated, int inner, int gelu) {
  gate_up += (long long)blockIdx.x * 2 * inner, gated += (long long)blockIdx.x * inner;
  if (inner % 8 == 0)
    gate_row<8>(gate_up, gate_up + inner, gated, inner, gelu);
  else
    gate_row<1>(gate_up, gate_up + inner, gated, inner, gelu);
}

// A lane's part of a head. LANES lanes share a head, so that a warp processes several positions at a time.
#define PLACES (32 / LANES)

struct Lane {
  Numbers<8> of[PER / 8];
};

__device__ inline float lane_number(const Lane &lane, int i) { return load(lane.of[i / 8].of[i % 8]); }

__device__ inline Lane load_lane(const T *head, int first) {
  Lane lane;
  for (int i = 0; i < PER / 8; i++) {
    const int at = first + i * 8;
    if (WIDTH % 8 == 0 && at < WIDTH)
      lane.of[i] = *(const Numbers<8> *)(head + at);
    else
      for (int j = 0; j < 8; j++) lane.of[i].of[j] = at + j < WIDTH ? head[at + j] : round_to(0.0f);
  }
  return lane;
}

// A warp normalises a head if there are `scales`, `[WIDTH]`, and rotates it if there are cosines and sines
// for its numbers; sines are negated in the first half.
__device__ inline void normalise_and_rotate(const T *head, const float *scales, float epsilon, const T *cosine, const T *sine,
                                            float *to) {
  constexpr int EACH = (WIDTH + 31) / 32;
  const int lane = threadIdx.x % 32;
  float numbers[EACH], square = 0.0f;
  for (int i = 0; i < EACH; i++) {
    const int at = i * 32 + lane;
    numbers[i] = at < WIDTH ? load(head[at]) : 0.0f;
    square += numbers[i] * numbers[i];
  }
  if (scales) {
    const float root = sqrtf(warp_sum(square) / WIDTH + epsilon);
    for (int i = 0; i < EACH; i++)
      if (i * 32 + lane < WIDTH) numbers[i] = numbers[i] / root * scales[i * 32 + lane];
  }
  for (int i = 0; i < EACH; i++)
    if (i * 32 + lane < WIDTH) to[i * 32 + lane] = numbers[i];
  if (!cosine) return;
  __syncwarp();
  for (int i = 0; i < EACH; i++) {
    const int at = i * 32 + lane;
    if (at < WIDTH) numbers[i] = numbers[i] * load(cosine[at]) + to[(at + WIDTH / 2) % WIDTH] * load(sine[at]);
  }
  __syncwarp();
  for (int i = 0; i < EACH; i++)
    if (i * 32 + lane < WIDTH) to[i * 32 + lane] = numbers[i];
}

// Each block computes TOGETHER heads of one row with shared keys and values. It first makes its queries,
// times `query_scale`, and the new key from `projected`, `[rows, HEADS + 2 GROUPS, WIDTH]`. `scales`, of
// queries and keys, are `[2, WIDTH]`, cosines and sines `[positions, WIDTH]`; each null where the model has
// none. The new key and value go to `place` of the caches, `[rows, GROUPS, capacity, WIDTH]`.
//
// Each part of a warp takes every PLACES * WARPS-th earlier position, with its own online softmax
// (arXiv:1805.02867); in the end they are combined. Positions where `bias`, `[rows, capacity]`, is not 0 are
// masked. `window` (0: none) includes the new token. Scores: softcap * tanh(score / softcap), 0 for none.
// A place outside the cache, or a position outside the tables of `rotated` positions, ends the kernel with an
// error.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attend(const T *projected, const float *scales, float epsilon, const T *cosine, const T *sine, const long long *positions,
           float query_scale, T *keys, T *values, const T *bias, const long long *place, T *attended, int capacity, int rotated,
           int window, float softcap) {
  const long long row = blockIdx.x;
  if (place[0] < 0 || place[0] >= capacity) __trap();
  if (cosine && (positions[row] < 0 || positions[row] >= rotated)) __trap();
  const int first_head = blockIdx.y * TOGETHER, group = first_head / (HEADS / GROUPS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = lane % LANES * PER;
  const int last = (int)place[0];
  const int first = window > 0 && last + 1 > window ? last + 1 - window : 0;
  T *key = keys + (row * GROUPS + group) * capacity * WIDTH, *value = values + (row * GROUPS + group) * capacity * WIDTH;
  const T *hidden = bias + row * capacity;

  // The next position is loaded while the current one is processed.
  int at = first + warp * PLACES + lane / LANES;
  Lane next_key = {}, next_value = {};
  bool next_seen = false;
  const auto fetch = [&] {
    next_seen = at < last;
    if (next_seen) {
      next_key = load_lane(key + (long long)at * WIDTH, own);
      next_value = load_lane(value + (long long)at * WIDTH, own);
      next_seen = load(hidden[at]) == 0.0f;
    }
    at += WARPS * PLACES;
  };
  fetch();

  // `parts` first holds the block's queries and key, and later the partial results of its warps.
  __shared__ float sums[WARPS][TOGETHER], largests[WARPS][TOGETHER], parts[WARPS > 1 ? WARPS : 2][TOGETHER][WIDTH];
  float *made = parts[0][0];
  const T *of_row = projected + row * (HEADS + 2 * GROUPS) * WIDTH;
  const T *new_value = of_row + (HEADS + GROUPS + group) * WIDTH;
  const T *cosines = cosine ? cosine + positions[row] * WIDTH : nullptr, *sines = cosine ? sine + positions[row] * WIDTH : nullptr;
  for (int head = warp; head <= TOGETHER; head += WARPS) {
    const bool is_key = head == TOGETHER;
    const T *from = of_row + (is_key ? HEADS + group : first_head + head) * WIDTH;
    const float *of_kind = scales && is_key ? scales + WIDTH : scales;
    normalise_and_rotate(from, of_kind, epsilon, cosines, sines, made + head * WIDTH);
    for (int number = lane; number < WIDTH; number += 32) {
      float &there = made[head * WIDTH + number];
      // Rounded as in the cache.
      there = is_key ? load(round_to(there)) : there * query_scale;
      // Only one of the blocks that share the key stores it.
      if (is_key && first_head % (HEADS / GROUPS) == 0) {
        key[(long long)last * WIDTH + number] = round_to(there);
        value[(long long)last * WIDTH + number] = new_value[number];
      }
    }
  }
  __syncthreads();

  float of_query[TOGETHER][PER], sum[TOGETHER], largest[TOGETHER], weighted[TOGETHER][PER];
  const Lane of_new_value = load_lane(new_value, own);
  const bool takes_new = warp == 0 && lane < LANES && load(hidden[last]) == 0.0f;
  const auto score_of = [&](float score) {
    for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(~0u, score, step);
    return softcap > 0.0f ? softcap * tanhf(score / softcap) : score;
  };
  for (int head = 0; head < TOGETHER; head++) {
    float score = 0.0f;
    for (int i = 0; i < PER; i++) {
      const bool inside = own + i < WIDTH;
      of_query[head][i] = inside ? made[head * WIDTH + own + i] : 0.0f;
      score += inside ? of_query[head][i] * made[TOGETHER * WIDTH + own + i] : 0.0f;
    }
    score = score_of(score);
    largest[head] = takes_new ? score : LOWEST;
    sum[head] = takes_new ? 1.0f : 0.0f;
    for (int i = 0; i < PER; i++) weighted[head][i] = takes_new ? lane_number(of_new_value, i) : 0.0f;
  }
  // Queries and key have been read, so their memory can be reused.
  __syncthreads();

  for (int begin = first + warp * PLACES; begin < last; begin += WARPS * PLACES) {
    const Lane of_key = next_key, of_value = next_value;
    const bool seen = next_seen;
    fetch();
    float scores[TOGETHER];
    for (int head = 0; head < TOGETHER; head++) {
      float score = 0.0f;
      for (int i = 0; i < PER; i++) score += of_query[head][i] * lane_number(of_key, i);
      scores[head] = score_of(score);
    }
    if (!seen) continue;
    for (int head = 0; head < TOGETHER; head++) {
      const float above = fmaxf(largest[head], scores[head]);
      const float kept = expf(largest[head] - above), weight = expf(scores[head] - above);
      largest[head] = above;
      sum[head] = sum[head] * kept + weight;
      for (int i = 0; i < PER; i++) weighted[head][i] = weighted[head][i] * kept + weight * lane_number(of_value, i);
    }
  }

  for (int head = 0; head < TOGETHER; head++) {
    for (int step = LANES; step < 32; step *= 2) {
      const float other = __shfl_xor_sync(~0u, largest[head], step);
      const float above = fmaxf(largest[head], other);
      // A part without any position has no weight.
      const float kept = largest[head] == LOWEST ? 0.0f : expf(largest[head] - above);
      const float others = other == LOWEST ? 0.0f : expf(other - above);
      largest[head] = above;
      sum[head] = sum[head] * kept + __shfl_xor_sync(~0u, sum[head], step) * others;
      for (int i = 0; i < PER; i++)
        weighted[head][i] = weighted[head][i] * kept + __shfl_xor_sync(~0u, weighted[head][i], step) * others;
    }
    if (lane < LANES)
      for (int i = 0; i < PER; i++)
        if (own + i < WIDTH) parts[warp][head][own + i] = weighted[head][i];
    sums[warp][head] = sum[head];
    largests[warp][head] = largest[head];
  }
  __syncthreads();
  for (int number = threadIdx.x; number < TOGETHER * WIDTH; number += WARPS * 32) {
    const int head = number / WIDTH, at = number % WIDTH;
    float above = LOWEST, whole = 0.0f, answer = 0.0f;
    for (int of = 0; of < WARPS; of++) above = fmaxf(above, largests[of][head]);
    for (int of = 0; of < WARPS; of++) {
      if (largests[of][head] == LOWEST) continue;
      const float kept = expf(largests[of][head] - above);
      whole += sums[of][head] * kept;
      answer += parts[of][head][at] * kept;
    }
    attended[(row * HEADS + first_head) * WIDTH + number] = round_to(answer / whole);
  }
}
