// One more token for every row of a batch: what a layer does between its products of matrices. Compiled while
// running, for one model and one GPU: sizes are constants that `decode.rs` defines.
//
//   HEADS, GROUPS        heads of queries, of keys and values
//   WIDTH                numbers of a head
//   HALF                 1: numbers are bf16, 0: f32. Sums are in f32 in both
//   WARPS, TOGETHER      warps of a block of `attend`, and heads
//   LANES, PER           of `attend`: lanes that have a head together, and numbers of each, a multiple of 8
//
// Where the new token goes is read from memory, so that a captured step can be replayed.

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

// So many numbers of a row at a time, by one load of 16 bytes or two.
template <int COUNT> struct alignas(COUNT == 8 ? 16 : sizeof(T)) Numbers {
  T of[COUNT];
};

// Over all threads of the block, of whole warps, for each of them.
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

// A block is a row of the stream, `[rows, width]`: the `sum` with what is added to it, if anything, and that normalised
// with `scales`, `[width]`.
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
  // Rounded in between, as the trainer's operators do.
  for (int i = 0; i < COUNT; i++)
    numbers.of[i] = round_to(load(round_to(activate(load(numbers.of[i]), gelu))) * load(factors.of[i]));
  *(Numbers<COUNT> *)(gated + at) = numbers;
}

// Gates times what they let through, `[rows, inner]`, from both beside each other, `[rows, 2 inner]`.
extern "C" __global__ void gate(const T *gate_up, T *gated, int inner, int gelu) {
  gate_up += (long long)blockIdx.x * 2 * inner, gated += (long long)blockIdx.x * inner;
  if (inner % 8 == 0)
    gate_row<8>(gate_up, gate_up + inner, gated, inner, gelu);
  else
    gate_row<1>(gate_up, gate_up + inner, gated, inner, gelu);
}

// A block is one head of one row, `[rows, HEADS + 2 GROUPS, WIDTH]`, with a thread for each number. Queries and keys
// are normalised where there are `scales`, `[2, WIDTH]`, and rotated where there are tables,
// `[positions, WIDTH]`, whose sines are negative in the first half. Queries are multiplied by `query_scale`; keys
// and values go to `place` of caches of `[rows, GROUPS, capacity, WIDTH]`.
extern "C" __global__ void rotate_and_store(const T *projected, const float *scales, float epsilon, const T *cosine, const T *sine,
                                            const long long *positions, const long long *place, float query_scale,
                                            float *query, T *keys, T *values, int capacity) {
  const long long row = blockIdx.x;
  const int head = blockIdx.y, at = threadIdx.x;
  const bool inside = at < WIDTH;
  const T stored = inside ? projected[(row * (HEADS + 2 * GROUPS) + head) * WIDTH + at] : round_to(0.0f);
  const int group = head < HEADS + GROUPS ? head - HEADS : head - HEADS - GROUPS;
  const long long cached = ((row * GROUPS + group) * capacity + place[0]) * WIDTH + at;
  if (head >= HEADS + GROUPS) {
    if (inside) values[cached] = stored;
    return;
  }
  __shared__ float whole[WIDTH];
  __shared__ float sums[32];
  float number = load(stored);
  if (scales) {
    const float part = warp_sum(number * number);
    if (at % 32 == 0) sums[at / 32] = part;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < (WIDTH + 31) / 32; warp++) sum += sums[warp];
    number = number / sqrtf(sum / WIDTH + epsilon);
    if (inside) number *= scales[(head < HEADS ? 0 : WIDTH) + at];
  }
  if (cosine) {
    if (inside) whole[at] = number;
    __syncthreads();
    if (inside) {
      const long long angle = positions[row] * WIDTH + at;
      number = number * load(cosine[angle]) + whole[(at + WIDTH / 2) % WIDTH] * load(sine[angle]);
    }
  }
  if (!inside) return;
  if (head < HEADS) {
    query[(row * HEADS + head) * WIDTH + at] = number * query_scale;
  } else {
    keys[cached] = round_to(number);
  }
}

// What a lane has of a head. LANES have one together, so that a warp has several places of the cache at a time.
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

// A block is TOGETHER heads of one row that share keys and values. Every part of a warp takes each PLACES * WARPS-th
// place, with a softmax of its own that is scaled anew when a larger score comes (arXiv:1805.02867); in the end they
// are added up. A place whose `bias`, `[rows, capacity]`, is not 0 is hidden. `window`, 0 for none, counts the new
// token. `softcap`, 0 for none: scores are softcap * tanh(score / softcap).
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attend(const float *query, const T *keys, const T *values, const T *bias, const long long *place, T *attended, int capacity,
           int window, float softcap) {
  const long long row = blockIdx.x;
  const int first_head = blockIdx.y * TOGETHER, group = first_head / (HEADS / GROUPS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = lane % LANES * PER;
  const int last = (int)place[0];
  const int first = window > 0 && last + 1 > window ? last + 1 - window : 0;
  const T *key = keys + (row * GROUPS + group) * capacity * WIDTH;
  const T *value = values + (row * GROUPS + group) * capacity * WIDTH;
  const T *hidden = bias + row * capacity;

  float of_query[TOGETHER][PER], sum[TOGETHER], largest[TOGETHER], weighted[TOGETHER][PER];
  for (int head = 0; head < TOGETHER; head++) {
    sum[head] = 0.0f;
    largest[head] = LOWEST;
    const float *from = query + (row * HEADS + first_head + head) * WIDTH;
    for (int i = 0; i < PER; i++) {
      of_query[head][i] = own + i < WIDTH ? from[own + i] : 0.0f;
      weighted[head][i] = 0.0f;
    }
  }
  // The next place is on its way while one is worked on.
  int at = first + warp * PLACES + lane / LANES;
  Lane next_key = {}, next_value = {};
  bool next_seen = false;
  const auto fetch = [&] {
    next_seen = at <= last;
    if (next_seen) {
      next_key = load_lane(key + (long long)at * WIDTH, own);
      next_value = load_lane(value + (long long)at * WIDTH, own);
      next_seen = load(hidden[at]) == 0.0f;
    }
    at += WARPS * PLACES;
  };
  fetch();
  for (int begin = first + warp * PLACES; begin <= last; begin += WARPS * PLACES) {
    const Lane of_key = next_key, of_value = next_value;
    const bool seen = next_seen;
    fetch();
    float scores[TOGETHER];
    for (int head = 0; head < TOGETHER; head++) {
      float score = 0.0f;
      for (int i = 0; i < PER; i++) score += of_query[head][i] * lane_number(of_key, i);
      for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(~0u, score, step);
      scores[head] = softcap > 0.0f ? softcap * tanhf(score / softcap) : score;
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

  __shared__ float sums[WARPS][TOGETHER], largests[WARPS][TOGETHER], parts[WARPS][TOGETHER][WIDTH];
  for (int head = 0; head < TOGETHER; head++) {
    for (int step = LANES; step < 32; step *= 2) {
      const float other = __shfl_xor_sync(~0u, largest[head], step);
      const float above = fmaxf(largest[head], other);
      // Of a part that had no place.
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
