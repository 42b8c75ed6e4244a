// One more token for every row of a batch: what a layer does between its products of matrices. Compiled while
// running, for one model and one GPU: sizes are constants that `decode.rs` defines.
//
//   HEADS, GROUPS        heads of queries, of keys and values
//   WIDTH                numbers of a head
//   HALF                 1: numbers are bf16, 0: f32. Sums are in f32 in both
//   WARPS                warps of a block of `attend`
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

// The numbers of a head that a lane has: PER in a row.
#define PER ((WIDTH + 31) / 32)

struct alignas(PER * sizeof(T) & -(PER * sizeof(T))) Numbers {
  T of[PER];
};

__device__ inline void load_lane(const T *head, int lane, float *to) {
  if (WIDTH == PER * 32) {
    const Numbers numbers = *(const Numbers *)(head + lane * PER);
    for (int i = 0; i < PER; i++) to[i] = load(numbers.of[i]);
  } else {
    for (int i = 0; i < PER; i++) to[i] = lane * PER + i < WIDTH ? load(head[lane * PER + i]) : 0.0f;
  }
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

// A block is one row's heads that share keys and values. Every warp takes each WARPS-th place, with a softmax of
// its own that is scaled anew when a larger score comes (arXiv:1805.02867); in the end they are added up. A place
// whose `bias`, `[rows, capacity]`, is not 0 is hidden. `window`, 0 for none, counts the new token. `softcap`, 0 for
// none: scores are softcap * tanh(score / softcap).
extern "C" __global__ void attend(const float *query, const T *keys, const T *values, const T *bias, const long long *place,
                                  T *attended, int capacity, int window, float softcap) {
  const int SHARED = HEADS / GROUPS;
  const long long row = blockIdx.x;
  const int group = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int last = (int)place[0];
  const int first = window > 0 && last + 1 > window ? last + 1 - window : 0;
  const T *key = keys + (row * GROUPS + group) * capacity * WIDTH;
  const T *value = values + (row * GROUPS + group) * capacity * WIDTH;
  const T *hidden = bias + row * capacity;

  float of_query[SHARED][PER], sum[SHARED], largest[SHARED], weighted[SHARED][PER];
  for (int head = 0; head < SHARED; head++) {
    sum[head] = 0.0f;
    largest[head] = LOWEST;
    const float *from = query + (row * HEADS + group * SHARED + head) * WIDTH;
    for (int i = 0; i < PER; i++) {
      of_query[head][i] = lane * PER + i < WIDTH ? from[lane * PER + i] : 0.0f;
      weighted[head][i] = 0.0f;
    }
  }
  for (int at = first + warp; at <= last; at += WARPS) {
    if (load(hidden[at]) != 0.0f) continue;
    float of_key[PER], of_value[PER];
    load_lane(key + (long long)at * WIDTH, lane, of_key);
    load_lane(value + (long long)at * WIDTH, lane, of_value);
    for (int head = 0; head < SHARED; head++) {
      float score = 0.0f;
      for (int i = 0; i < PER; i++) score += of_query[head][i] * of_key[i];
      score = warp_sum(score);
      if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
      const float above = fmaxf(largest[head], score);
      const float kept = expf(largest[head] - above), weight = expf(score - above);
      largest[head] = above;
      sum[head] = sum[head] * kept + weight;
      for (int i = 0; i < PER; i++) weighted[head][i] = weighted[head][i] * kept + weight * of_value[i];
    }
  }

  __shared__ float sums[WARPS][SHARED], largests[WARPS][SHARED], parts[WARPS][SHARED][PER * 32];
  for (int head = 0; head < SHARED; head++) {
    sums[warp][head] = sum[head];
    largests[warp][head] = largest[head];
    for (int i = 0; i < PER; i++) parts[warp][head][lane * PER + i] = weighted[head][i];
  }
  __syncthreads();
  for (int number = threadIdx.x; number < SHARED * WIDTH; number += WARPS * 32) {
    const int head = number / WIDTH, at = number % WIDTH;
    float above = LOWEST, whole = 0.0f, answer = 0.0f;
    for (int of = 0; of < WARPS; of++) above = fmaxf(above, largests[of][head]);
    for (int of = 0; of < WARPS; of++) {
      // Of a warp that had no place.
      if (largests[of][head] == LOWEST) continue;
      const float kept = expf(largests[of][head] - above);
      whole += sums[of][head] * kept;
      answer += parts[of][head][at] * kept;
    }
    attended[(row * HEADS + group * SHARED) * WIDTH + number] = round_to(answer / whole);
  }
}
