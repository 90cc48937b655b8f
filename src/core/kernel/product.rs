//! The matrix product. Each element of the result is one chain of fused multiply-adds, along the inner dimension in order, however
//! the matrices are cut.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{InstructionSet, dense, fma};

/// Columns of a panel: what is multiplied at once.
const WIDTH: usize = 16;

/// Inner dimension that is packed at once: a panel of it stays in the first cache.
const DEPTH: usize = 256;

/// Below this many rows the weights are read as they lie: packing them costs more. Products with a transposed matrix are then
/// added up in another order.
pub(crate) const FEW_ROWS: usize = 8;

/// A panel of the right matrix, `[depth, WIDTH]`.
type Panel = [[f32; WIDTH]; DEPTH];

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

/// `out += aᵀ · b`, with `a` of `[rows, left]`, `b` of `[rows, right]` and `out` of `[left, right]`.
pub fn add_outer(a: &[f32], b: &[f32], out: &mut [f32], [rows, left, right]: [usize; 3]) {
    if rows >= FEW_ROWS {
        add_product(view(a, rows, left).reversed_axes(), view(b, rows, right), view_mut(out, left, right));
        return;
    }
    for (a, b) in a.chunks_exact(left).zip(b.chunks_exact(right)).take(rows) {
        dense::add_outer(a, b, out);
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
    let mut panel: Panel = [[0.0; WIDTH]; DEPTH];
    for start in (0..inner).step_by(DEPTH) {
        let depth = DEPTH.min(inner - start);
        for column in (0..columns).step_by(WIDTH) {
            let width = WIDTH.min(columns - column);
            pack(&b, start..start + depth, column..column + width, &mut panel);
            let mut row = 0;
            while row < rows {
                let place = Place { row, column, width, start };
                row += match rows - row {
                    left if left >= ROWS => block::<ROWS, FUSED>(&a, &panel[..depth], &mut out, place),
                    left if left >= 8 => block::<8, FUSED>(&a, &panel[..depth], &mut out, place),
                    left if left >= 4 => block::<4, FUSED>(&a, &panel[..depth], &mut out, place),
                    left if left >= 2 => block::<2, FUSED>(&a, &panel[..depth], &mut out, place),
                    _ => block::<1, FUSED>(&a, &panel[..depth], &mut out, place),
                };
            }
        }
    }
}

/// Copies a panel of the right matrix; columns that there are not are zeros.
#[inline(always)]
fn pack(b: &ArrayView2<'_, f32>, inner: std::ops::Range<usize>, columns: std::ops::Range<usize>, panel: &mut Panel) {
    let width = columns.len();
    let (down, across) = (b.strides()[0], b.strides()[1]);
    let source = b.slice(ndarray::s![inner.clone(), columns]);
    let source = source.as_ptr();
    for (at, row) in panel[..inner.len()].iter_mut().enumerate() {
        for (lane, value) in row[..width].iter_mut().enumerate() {
            // SAFETY: the slice has `inner.len()` rows and `width` columns with these strides.
            *value = unsafe { *source.offset(at as isize * down + lane as isize * across) };
        }
        row[width..].fill(0.0);
    }
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
    panel: &[[f32; WIDTH]],
    out: &mut ArrayViewMut2<'_, f32>,
    Place { row, column, width, start }: Place,
) -> usize {
    let depth = panel.len();
    assert!(row + ROWS <= a.nrows() && start + depth <= a.ncols(), "the block is within the left matrix");
    assert!(row + ROWS <= out.nrows() && column + width <= out.ncols(), "the block is within the result");
    let (down, along) = (a.strides()[0], a.strides()[1]);
    // SAFETY: the place is within the matrix, as was asserted.
    let a = unsafe { a.as_ptr().offset(row as isize * down + start as isize * along) };
    let mut sums = [[0.0_f32; WIDTH]; ROWS];
    for (at, sums) in sums.iter_mut().enumerate() {
        let from = out.row(row + at);
        let from = &from.as_slice().expect("a row of the result is contiguous")[column..column + width];
        sums[..width].copy_from_slice(from);
    }
    for (at, lanes) in panel.iter().enumerate() {
        for (number, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `number` is below ROWS and `at` below the depth: within the matrix, as was asserted.
            let factor = unsafe { *a.offset(number as isize * down + at as isize * along) };
            for lane in 0..WIDTH {
                sums[lane] = fma::<FUSED>(factor, lanes[lane], sums[lane]);
            }
        }
    }
    for (at, sums) in sums.iter().enumerate() {
        let mut to = out.row_mut(row + at);
        let to = to.as_slice_mut().expect("a row of the result is contiguous");
        to[column..column + width].copy_from_slice(&sums[..width]);
    }
    ROWS
}
