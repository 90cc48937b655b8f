//! A square of values, transposed: rows that lie apart become columns side by side.

/// Rows and columns of a tile.
pub(super) const TILE: usize = 8;

/// Copies a tile, transposed: value `i` of row `k` of `from` becomes value `k` of row `i` of `to`. Rows are so many numbers apart. With
/// `WIDE`, which is for processors that have AVX2, it is done in registers; it is the same copy.
///
/// # Safety
/// Both must have [`TILE`] rows of as many values with these strides, and nobody else may refer to those of `to`. With `WIDE` the
/// processor must have AVX2, if it is one of x86-64.
#[inline(always)]
pub(super) unsafe fn transpose<const WIDE: bool>((from, apart): (*const f32, isize), (to, stride): (*mut f32, isize)) {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the caller's.
        unsafe { in_registers((from, apart), (to, stride)) };
        return;
    }
    for k in 0..TILE as isize {
        for i in 0..TILE as isize {
            // SAFETY: the caller's.
            unsafe { *to.offset(i * stride + k) = *from.offset(k * apart + i) };
        }
    }
}

/// The same in AVX registers of eight values: pairs of rows are woven into each other, then fours, then the halves of registers go
/// where they belong.
///
/// # Safety
/// As of [`transpose`], on a processor that has AVX.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn in_registers((from, apart): (*const f32, isize), (to, stride): (*mut f32, isize)) {
    use std::arch::x86_64::{
        __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: the caller's: the processor has the instructions, and all rows are there.
    unsafe {
        let row = |number: isize| _mm256_loadu_ps(from.offset(number * apart));
        let rows: [__m256; TILE] = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
        // Of rows k to k + 3, the values i and i + 4 side by side in each half of a register, for i from 0 to 3.
        let four = |k: usize| {
            let low = [_mm256_unpacklo_ps(rows[k], rows[k + 1]), _mm256_unpacklo_ps(rows[k + 2], rows[k + 3])];
            let high = [_mm256_unpackhi_ps(rows[k], rows[k + 1]), _mm256_unpackhi_ps(rows[k + 2], rows[k + 3])];
            [
                _mm256_shuffle_ps::<0x44>(low[0], low[1]),
                _mm256_shuffle_ps::<0xEE>(low[0], low[1]),
                _mm256_shuffle_ps::<0x44>(high[0], high[1]),
                _mm256_shuffle_ps::<0xEE>(high[0], high[1]),
            ]
        };
        let (first, last) = (four(0), four(4));
        for i in 0..TILE / 2 {
            let [near, far] = [i as isize, (i + TILE / 2) as isize];
            _mm256_storeu_ps(to.offset(near * stride), _mm256_permute2f128_ps::<0x20>(first[i], last[i]));
            _mm256_storeu_ps(to.offset(far * stride), _mm256_permute2f128_ps::<0x31>(first[i], last[i]));
        }
    }
}
