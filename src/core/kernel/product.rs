//! The matrix product. Each element of the result is one chain of fused multiply-adds, along the inner dimension in order, however
//! the matrices are cut.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::tile::{self, TILE};
use super::{InstructionSet, dense, fma};

/// Columns of a panel: what is multiplied at once.
const WIDTH: usize = 16;

/// Inner dimension that is packed at once: a panel of it stays in the first cache.
const DEPTH: usize = 256;

/// Below this many rows the weights are read as they lie: packing them costs more. Products with a transposed matrix are then
/// added up in another order.
pub(crate) const FEW_ROWS: usize = 8;

/// Room for a panel of the right matrix, `[depth, WIDTH]`.
type Panel = [MaybeUninit<[f32; WIDTH]>; DEPTH];

fn view(data: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), &data[..rows * columns]).expect("the slice has the shape's length")
}

fn view_mut(data: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), &mut data[..rows * columns]).expect("the slice has the shape's length")
}

/// `out += a · b`, with `a` of `[rows, inner]`, `b` of `[inner, columns]` and `out` of `[rows, columns]`. The sum of an element is the same
/// chain for any number of rows.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32], [rows, inner, columns]: [usize; 3]) {
    if inner == 0 {
        return;
    }
    if rows >= FEW_ROWS {
        add_product(view(a, rows, inner), view(b, inner, columns), view_mut(out, rows, columns));
        return;
    }
    for (row, out) in a.chunks_exact(inner).zip(out.chunks_exact_mut(columns)).take(rows) {
        dense::add_rows(row, b, out);
    }
}

/// `out += a · bᵀ`, with `a` of `[rows, inner]`, `b` of `[columns, inner]` and `out` of `[rows, columns]`.
pub fn add_transposed(a: &[f32], b: &[f32], out: &mut [f32], [rows, inner, columns]: [usize; 3]) {
    if rows >= FEW_ROWS {
        add_product(view(a, rows, inner), view(b, columns, inner).reversed_axes(), view_mut(out, rows, columns));
        return;
    }
    for (row, out) in a.chunks_exact(inner).zip(out.chunks_exact_mut(columns)).take(rows) {
        dense::add_dots(row, b, out);
    }
}

/// `out += aᵀ · b` of some columns of `a`, with `a` of `[rows, left]`, `b` of `[rows, right]` and `out` of `[columns, right]`.
pub fn add_outer((a, columns): (&[f32], Range<usize>), b: &[f32], out: &mut [f32], [rows, left, right]: [usize; 3]) {
    if rows >= FEW_ROWS {
        let count = columns.len();
        let a = view(a, rows, left).slice_move(s![.., columns]).reversed_axes();
        add_product(a, view(b, rows, right), view_mut(out, count, right));
        return;
    }
    for (a, b) in a.chunks_exact(left).zip(b.chunks_exact(right)).take(rows) {
        dense::add_outer(&a[columns.clone()], b, out);
    }
}

/// Adds the product of `a` (`[rows, inner]`) and `b` (`[inner, columns]`) to `out` (`[rows, columns]`), whose rows must be contiguous.
/// Of `a` and `b` any strides do, transposes too.
///
/// # Panics
/// When the shapes do not fit, or a row of `out` is not contiguous.
pub(super) fn add_product(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn on_avx2(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) {
            multiply::<5, true>(a, b, out);
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        fn on_avx512(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) {
            multiply::<12, true>(a, b, out);
        }
        match InstructionSet::in_use() {
            // SAFETY: only what this processor has is ever in use.
            InstructionSet::Avx512 => unsafe { on_avx512(a, b, out) },
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { on_avx2(a, b, out) },
            InstructionSet::Baseline => multiply::<4, false>(a, b, out),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    multiply::<6, true>(a, b, out);
}

/// `ROWS` of the left matrix are multiplied with a panel at once: as many as the accumulators have registers.
#[inline(always)]
fn multiply<const ROWS: usize, const FUSED: bool>(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let ((rows, inner), columns) = (a.dim(), b.ncols());
    assert!(b.nrows() == inner && out.dim() == (rows, columns), "the shapes fit");
    if rows == 0 || columns == 0 || inner == 0 {
        return;
    }
    assert!(columns == 1 || out.strides()[1] == 1, "a row of the result is contiguous");
    let mut panel: Panel = [MaybeUninit::uninit(); DEPTH];
    for start in (0..inner).step_by(DEPTH) {
        let depth = DEPTH.min(inner - start);
        for column in (0..columns).step_by(WIDTH) {
            let width = WIDTH.min(columns - column);
            let lanes = lanes::<FUSED>(&b, start..start + depth, column..column + width, &mut panel);
            let mut row = 0;
            while row < rows {
                let place = Place { row, column, width, start };
                row += match rows - row {
                    left if left >= ROWS => block::<ROWS, FUSED>(&a, lanes, &mut out, place),
                    left if left >= 8 => block::<8, FUSED>(&a, lanes, &mut out, place),
                    left if left >= 4 => block::<4, FUSED>(&a, lanes, &mut out, place),
                    left if left >= 2 => block::<2, FUSED>(&a, lanes, &mut out, place),
                    _ => block::<1, FUSED>(&a, lanes, &mut out, place),
                };
            }
        }
    }
}

/// The lanes that a panel is multiplied by: `depth` times [`WIDTH`] of them, side by side, within the right matrix or a copy.
#[derive(Clone, Copy)]
struct Lanes<'p> {
    first: *const f32,
    stride: isize,
    depth: usize,
    /// What they lie in.
    borrowed: PhantomData<&'p f32>,
}

impl Lanes<'_> {
    /// # Safety
    /// There must be a lane of this number.
    #[inline(always)]
    unsafe fn at(&self, number: usize) -> &[f32; WIDTH] {
        // SAFETY: the caller's.
        unsafe { &*self.first.offset(number as isize * self.stride).cast() }
    }
}

/// A panel of the right matrix. What lies as it is needed is read there; else it is copied, and columns that there are not are zeros.
#[inline(always)]
fn lanes<'p, const FUSED: bool>(
    b: &'p ArrayView2<'_, f32>,
    inner: Range<usize>,
    columns: Range<usize>,
    panel: &'p mut Panel,
) -> Lanes<'p> {
    let (width, depth) = (columns.len(), inner.len());
    assert!(inner.end <= b.nrows() && columns.end <= b.ncols(), "the panel is within the right matrix");
    let (down, across) = (b.strides()[0], b.strides()[1]);
    // SAFETY: the place is within the matrix, as was asserted.
    let source = unsafe { b.as_ptr().offset(inner.start as isize * down + columns.start as isize * across) };
    if across == 1 && width == WIDTH {
        return Lanes { first: source, stride: down, depth, borrowed: PhantomData };
    }
    let mut copied = 0;
    if down == 1 && width == WIDTH {
        while copied + TILE <= depth {
            for lane in (0..WIDTH).step_by(TILE) {
                // SAFETY: the panel has `depth` rows side by side and `WIDTH` columns with this stride, and a tile is within both it and
                // the copy, whose rows are `WIDTH` apart. Where multiply-adds are fused on x86-64 there is AVX2: see `add_product`.
                unsafe {
                    let from = source.offset(copied as isize + lane as isize * across);
                    let to = panel.as_mut_ptr().cast::<f32>().add(copied * WIDTH + lane);
                    tile::transpose::<FUSED>((from, across), (to, WIDTH as isize));
                }
            }
            copied += TILE;
        }
    }
    for (at, place) in panel.iter_mut().enumerate().take(depth).skip(copied) {
        let row = place.write([0.0; WIDTH]);
        for (lane, value) in row[..width].iter_mut().enumerate() {
            // SAFETY: the panel has `depth` rows and `width` columns with these strides.
            *value = unsafe { *source.offset(at as isize * down + lane as isize * across) };
        }
    }
    Lanes { first: panel.as_ptr().cast(), stride: WIDTH as isize, depth, borrowed: PhantomData }
}

/// Where a block of the result begins, and from where on the inner dimension is taken.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
    width: usize,
    start: usize,
}

/// Adds to `ROWS` rows of one panel's width; returns how many they are.
#[inline(always)]
fn block<const ROWS: usize, const FUSED: bool>(
    a: &ArrayView2<'_, f32>,
    lanes: Lanes<'_>,
    out: &mut ArrayViewMut2<'_, f32>,
    Place { row, column, width, start }: Place,
) -> usize {
    assert!(row + ROWS <= a.nrows() && start + lanes.depth <= a.ncols(), "the block is within the left matrix");
    assert!(row + ROWS <= out.nrows() && column + width <= out.ncols(), "the block is within the result");
    let strides = (a.strides()[0], a.strides()[1]);
    // SAFETY: the place is within the matrix, as was asserted.
    let a = unsafe { a.as_ptr().offset(row as isize * strides.0 + start as isize * strides.1) };
    if width == WIDTH {
        let apart = out.strides()[0];
        // SAFETY: as above; `multiply` has asserted that a row is contiguous.
        let out = unsafe { out.as_mut_ptr().offset(row as isize * apart).add(column) };
        // SAFETY: the block is within all three.
        unsafe { add_block::<ROWS, FUSED>((a, strides), lanes, (out.cast(), apart)) };
        return ROWS;
    }
    // The columns that there are, beside what is not looked at.
    let mut whole = [[0.0_f32; WIDTH]; ROWS];
    let columns = column..column + width;
    let contiguous = "a row of the result is contiguous";
    for (number, lanes) in whole.iter_mut().enumerate() {
        lanes[..width].copy_from_slice(&out.row(row + number).as_slice().expect(contiguous)[columns.clone()]);
    }
    // SAFETY: the block is within the left matrix, and `whole` has as many rows.
    unsafe { add_block::<ROWS, FUSED>((a, strides), lanes, (whole.as_mut_ptr(), WIDTH as isize)) };
    for (number, lanes) in whole.iter().enumerate() {
        let mut to = out.row_mut(row + number);
        to.as_slice_mut().expect(contiguous)[columns.clone()].copy_from_slice(&lanes[..width]);
    }
    ROWS
}

/// The inner loop. All counts but the depth are constants, so that the sums stay in registers.
///
/// # Safety
/// `a` must have `ROWS` rows and the lanes' depth of columns, `out` `ROWS` rows of [`WIDTH`] that nobody else refers to; each with its
/// strides, of `out` that between its rows, in numbers.
#[inline(always)]
unsafe fn add_block<const ROWS: usize, const FUSED: bool>(
    (a, (down, along)): (*const f32, (isize, isize)),
    lanes: Lanes<'_>,
    (out, apart): (*mut [f32; WIDTH], isize),
) {
    let out = out.cast::<f32>();
    let mut sums = [[0.0_f32; WIDTH]; ROWS];
    for (number, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *sums = unsafe { *out.offset(number as isize * apart).cast() };
    }
    for at in 0..lanes.depth {
        // SAFETY: `at` is below the depth.
        let lanes = unsafe { lanes.at(at) };
        for (number, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let factor = unsafe { *a.offset(number as isize * down + at as isize * along) };
            for lane in 0..WIDTH {
                sums[lane] = fma::<FUSED>(factor, lanes[lane], sums[lane]);
            }
        }
    }
    for (number, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { *out.offset(number as isize * apart).cast() = *sums };
    }
}
