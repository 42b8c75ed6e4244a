// Draws the next token of each row of logits, with one block per row. Compiled at run time; PIECE and THREADS
// are defined by `draw.rs`.

#define LOWEST __int_as_float(0xff800000)

template <typename N, typename F> __device__ inline N over_warp(N number, F both) {
  for (int step = 16; step > 0; step /= 2) number = both(number, __shfl_xor_sync(~0u, number, step));
  return number;
}

// Reduces over all threads of the block, and returns the result to each of them.
template <typename N, typename F> __device__ inline N over_block(N number, F both) {
  __shared__ N parts[32];
  number = over_warp(number, both);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = number;
  __syncthreads();
  return over_warp(parts[threadIdx.x % 32], both);
}

__device__ inline double sum_of(double a, double b) { return a + b; }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline int lower(int a, int b) { return min(a, b); }

// The sum over the lanes before this one; `total` is that over all lanes.
__device__ inline double before(double own, double *total) {
  const int lane = threadIdx.x % 32;
  double until = own;
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(~0u, until, step);
    if (lane >= step) until += other;
  }
  *total = __shfl_sync(~0u, until, 31);
  const double earlier = __shfl_up_sync(~0u, until, 1);
  return lane == 0 ? 0.0 : earlier;
}

// Inverts the cumulative distribution of the softmax of logits / temperature over the first `count` entries.
// Weights are f32, summed in f64 by pieces; the piece is found first, then the entry. `logits` are
// `[most_places, entries]`, and row r has those at `places[r]`; a place outside ends it with an error.
// `sums`, `[rows, pieces]`, is scratch memory. `drawn` gets per row the token, its log-probability, and 1 if
// all logits are finite. Temperature 0 is greedy: the first of the largest, with log-probability 0.
extern "C" __global__ void draw(const float *logits, long long most_places, int entries, int count, const long long *places,
                                const double *uniforms, double temperature, double *sums, double *drawn) {
  const long long row = blockIdx.x;
  if (places[row] < 0 || places[row] >= most_places) __trap();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float *own = logits + places[row] * entries;
  float most = LOWEST;
  int finite = 1;
  for (int at = threadIdx.x; at < count; at += THREADS) {
    finite &= isfinite(own[at]) ? 1 : 0;
    most = fmaxf(most, own[at]);
  }
  most = over_block(most, larger);
  finite = over_block(finite, lower);
  drawn += row * 3;
  if (temperature == 0.0) {
    int first = count;
    for (int at = threadIdx.x; at < count; at += THREADS)
      if (own[at] == most) first = min(first, at);
    first = over_block(first, lower);
    if (threadIdx.x == 0) drawn[0] = first, drawn[1] = 0.0, drawn[2] = finite;
    return;
  }

  const float scale = (float)(1.0 / temperature);
  const int pieces = (count + PIECE - 1) / PIECE;
  sums += row * pieces;
  for (int piece = warp; piece < pieces; piece += THREADS / 32) {
    double sum = 0.0;
    for (int at = piece * PIECE + lane; at < min((piece + 1) * PIECE, count); at += 32) sum += expf((own[at] - most) * scale);
    sum = over_warp(sum, sum_of);
    if (lane == 0) sums[piece] = sum;
  }
  __syncthreads();
  if (warp != 0) return;

  // Finds the first piece whose end is above the threshold. Each lane has consecutive pieces.
  const int share = (pieces + 31) / 32;
  const int begin = min(lane * share, pieces), end = min(begin + share, pieces);
  double sum = 0.0, total;
  for (int piece = begin; piece < end; piece++) sum += sums[piece];
  const double earlier = before(sum, &total);
  const double threshold = uniforms[row] * total;
  double until = earlier;
  int passed = 0;
  for (int piece = begin; piece < end; piece++) {
    until += sums[piece];
    if (until <= threshold) passed++;
  }
  const int piece = min((int)over_warp((double)passed, sum_of), pieces - 1);
  double start = 0.0;
  if (begin <= piece && piece < end) {
    start = earlier;
    for (int of = begin; of < piece; of++) start += sums[of];
  }
  start = over_warp(start, sum_of);

  // Finds the entry within the piece, but never one without mass.
  const int width = PIECE / 32, first = piece * PIECE + lane * width;
  double weights[width];
  int heavy = -1;
  sum = 0.0;
  for (int i = 0; i < width; i++) {
    weights[i] = first + i < count ? expf((own[first + i] - most) * scale) : 0.0f;
    if (weights[i] > 0.0) heavy = first + i;
    sum += weights[i];
  }
  double all;
  until = start + before(sum, &all);
  passed = 0;
  for (int i = 0; i < width; i++) {
    until += weights[i];
    if (until <= threshold) passed++;
  }
  const int last = -over_warp(-heavy, lower);
  const int entry = min(piece * PIECE + (int)over_warp((double)passed, sum_of), max(last, 0));
  if (lane == 0) {
    drawn[0] = entry;
    drawn[1] = ((double)own[entry] - (double)most) / temperature - log(total);
    drawn[2] = finite;
  }
}
