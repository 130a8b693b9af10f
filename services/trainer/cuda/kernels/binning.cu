// Which Gaussians reach which tile, nearest first.

// Pictures of more tiles than a short can name are binned with -DTILE_KEY=int.
#ifndef TILE_KEY
#define TILE_KEY short
#define NO_TILE 0x7fff
#else
#define NO_TILE 0x7fffffff
#endif

// One thread a Gaussian, in the order of depth. Writes a (tile, Gaussian) pair for each tile
// it reaches, up to ends[i]. Gaussians stand by depth, so that a stable sort by tile leaves
// each tile's list sorted by depth. Pairs beyond the capacity are dropped; the host sees the
// total. Where the compiler rounded the count otherwise than here, the gap gets NO_TILE.
extern "C" __global__ void __launch_bounds__(256) fill_pairs(
    int count, int tiles_x, int tiles_y, long long capacity,
    const float4* __restrict__ records, const long long* __restrict__ order,
    const int* __restrict__ tile_counts, const long long* __restrict__ ends,
    TILE_KEY* __restrict__ tiles, int* __restrict__ gaussians
) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int index = (int)order[i];
    const int wanted = tile_counts[index];
    if (wanted == 0) return;
    const Record g = load_record(records, index);
    const long long end = min(ends[i], capacity);
    long long at = ends[i] - wanted;
    int first_row, last_row;
    tile_rows(g, tiles_y, &first_row, &last_row);
    for (int row = first_row; row <= last_row; ++row) {
        int first, last;
        if (!tile_columns(g, row, tiles_x, &first, &last)) continue;
        for (int column = first; column <= last && at < end; ++column, ++at) {
            tiles[at] = (TILE_KEY)(row * tiles_x + column);
            gaussians[at] = index;
        }
    }
    for (; at < end; ++at) tiles[at] = NO_TILE;
}

// One thread a pair, after the sort by tile. Puts the Gaussians in the sorted order and notes
// where each tile's list begins and ends.
extern "C" __global__ void __launch_bounds__(256) gather_pairs(
    long long capacity, int tile_count, const TILE_KEY* __restrict__ sorted_tiles,
    const long long* __restrict__ positions, const int* __restrict__ gaussians,
    int* __restrict__ sorted_gaussians, int2* __restrict__ ranges
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= capacity) return;
    const int tile = sorted_tiles[i];
    if (tile >= tile_count) return;  // the filling behind the last pair
    sorted_gaussians[i] = gaussians[positions[i]];
    if (i == 0 || sorted_tiles[i - 1] != tile) ranges[tile].x = (int)i;
    if (i + 1 == capacity || sorted_tiles[i + 1] != tile) ranges[tile].y = (int)(i + 1);
}
