//! Products of matrices, summed and answered in single precision whatever the matrices are in. libtorch's own
//! operators round the product of halves to half precision again: of logits, two or three digits would be
//! left.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use half::bf16;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::Stored;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// `C = alpha op(A) op(B) + beta C`, of the matrix library that libtorch brings along on x86-64.
type Gemm = unsafe extern "C" fn(
    order: c_int,
    transposed_a: c_int,
    transposed_b: c_int,
    rows: c_int,
    columns: c_int,
    inner: c_int,
    alpha: f32,
    a: *const c_void,
    stride_a: c_int,
    b: *const c_void,
    stride_b: c_int,
    beta: f32,
    c: *mut f32,
    stride_c: c_int,
);

const NAME: &CStr = c"cblas_gemm_bf16bf16f32";
const ROWS_FIRST: c_int = 101;
const AS_IT_IS: c_int = 111;
const TRANSPOSED: c_int = 112;

fn gemm() -> Option<Gemm> {
    static FOUND: OnceLock<Option<Gemm>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name is a C string; a null handle asks for what is loaded already.
        let address = unsafe { dlsym(std::ptr::null_mut(), NAME.as_ptr()) };
        // SAFETY: the library's function of that name has this signature (integers of 32 bits: libtorch links
        // the LP64 interface).
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Gemm>(address) })
    })
}

/// `C = alpha op(A) op(B) + beta C` of single-precision matrices that stand column by column.
type SingleGemm = unsafe extern "C" fn(
    transposed_a: *const c_char,
    transposed_b: *const c_char,
    rows: *const c_int,
    columns: *const c_int,
    inner: *const c_int,
    alpha: *const f32,
    a: *const f32,
    stride_a: *const c_int,
    b: *const f32,
    stride_b: *const c_int,
    beta: *const f32,
    c: *mut f32,
    stride_c: *const c_int,
);

fn single_gemm() -> Option<SingleGemm> {
    static FOUND: OnceLock<Option<SingleGemm>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name is a C string; a null handle asks for what is loaded already.
        let address = unsafe { dlsym(std::ptr::null_mut(), c"sgemm_".as_ptr()) };
        // SAFETY: the function of that name has this signature in every such library with integers of 32
        // bits; libtorch needs one.
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SingleGemm>(address) })
    })
}

/// A matrix as its numbers stand, row by row.
#[derive(Clone, Copy)]
pub struct Grid<'a, T> {
    numbers: &'a [T],
    rows: usize,
    columns: usize,
    /// From one row to the next.
    stride: usize,
    /// Read as its transpose.
    turned: bool,
}

impl<'a, T> Grid<'a, T> {
    /// `numbers` begin with the first of the first row.
    pub fn new(numbers: &'a [T], rows: usize, columns: usize, stride: usize) -> Grid<'a, T> {
        assert!(
            columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= numbers.len()),
            "a matrix beyond its numbers"
        );
        Grid { numbers, rows, columns, stride, turned: false }
    }

    /// Its transpose.
    pub fn turned(self) -> Grid<'a, T> {
        Grid { turned: !self.turned, ..self }
    }

    fn shape(&self) -> [usize; 2] {
        if self.turned { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }
}

impl<T: Stored> Grid<'_, T> {
    fn at(&self, row: usize, column: usize) -> f32 {
        let (row, column) = if self.turned { (column, row) } else { (row, column) };
        self.numbers[row * self.stride + column].single()
    }
}

/// What small matrices may be of.
pub trait Factor: Stored {
    /// By the matrix library; false where there is none.
    ///
    /// # Safety
    /// As for [`multiply_small`].
    unsafe fn by_library(a: Grid<Self>, b: Grid<Self>, beta: f32, to: *mut f32, stride: usize) -> bool
    where
        Self: Sized;
}

impl Factor for bf16 {
    unsafe fn by_library(a: Grid<bf16>, b: Grid<bf16>, beta: f32, to: *mut f32, stride: usize) -> bool {
        let Some(gemm) = gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let turned = |grid: &Grid<bf16>| if grid.turned { TRANSPOSED } else { AS_IT_IS };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, a.stride, b.stride, stride].map(|size| size as c_int);
        let (from_a, from_b) = (a.numbers.as_ptr().cast(), b.numbers.as_ptr().cast());
        // SAFETY: grids are within their numbers; the rest is the caller's promise.
        unsafe {
            gemm(
                ROWS_FIRST,
                turned(&a),
                turned(&b),
                rows,
                columns,
                inner,
                1.0,
                from_a,
                stride_a,
                from_b,
                stride_b,
                beta,
                to,
                stride,
            );
        }
        true
    }
}

impl Factor for f32 {
    unsafe fn by_library(a: Grid<f32>, b: Grid<f32>, beta: f32, to: *mut f32, stride: usize) -> bool {
        let Some(gemm) = single_gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let turned = |grid: &Grid<f32>| if grid.turned { c"T" } else { c"N" };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, a.stride, b.stride, stride].map(|size| size as c_int);
        // Column by column, what stands row by row is its transpose; and (a b)' = b' a'.
        // SAFETY: as above.
        unsafe {
            gemm(
                turned(&b).as_ptr(),
                turned(&a).as_ptr(),
                &columns,
                &rows,
                &inner,
                &1.0,
                b.numbers.as_ptr(),
                &stride_b,
                a.numbers.as_ptr(),
                &stride_a,
                &beta,
                to,
                &stride,
            );
        }
        true
    }
}

/// `a b + beta c` into c, which stands row by row at `to`, `stride` from row to row. For matrices of which a
/// thread multiplies many: within a crew ([`super::crew`]), each member its own.
///
/// # Safety
/// The product's rows at `to` are numbers that can be written, and nobody else reads or writes them
/// meanwhile.
pub unsafe fn multiply_small<T: Factor>(a: Grid<T>, b: Grid<T>, beta: f32, to: *mut f32, stride: usize) {
    let ([rows, inner], [inner_of_b, columns]) = (a.shape(), b.shape());
    assert!(inner == inner_of_b && columns <= stride, "matrices of other shapes");
    // SAFETY: the caller's promise.
    if rows == 0 || columns == 0 || (inner > 0 && unsafe { T::by_library(a, b, beta, to, stride) }) {
        return;
    }
    for row in 0..rows {
        for column in 0..columns {
            let sum: f32 = (0..inner).map(|at| a.at(row, at) * b.at(at, column)).sum();
            // SAFETY: within the product.
            unsafe {
                let place = to.add(row * stride + column);
                *place = if beta == 0.0 { sum } else { beta * *place + sum };
            }
        }
    }
}

/// `a b`, `[rows, inner]` times `[inner, columns]`, in single precision, whatever precision both are in.
/// Either may be a transposed view.
pub fn multiply(a: &Tensor, b: &Tensor) -> Tensor {
    let _guard = no_grad_guard();
    if !fits(a) || !fits(b) {
        return a.to_kind(Kind::Float).mm(&b.to_kind(Kind::Float));
    }
    let mut product = Tensor::empty([a.size()[0], b.size()[1]], (Kind::Float, Device::Cpu));
    write(a, b, &mut product, 0.0);
    product
}

/// Adds `a b` to `sum`, which is in single precision and contiguous.
pub fn add_product(sum: &mut Tensor, a: &Tensor, b: &Tensor) {
    let _guard = no_grad_guard();
    if fits(a) && fits(b) {
        write(a, b, sum, 1.0);
    } else {
        let _ = sum.addmm_(&a.to_kind(Kind::Float), &b.to_kind(Kind::Float));
    }
}

/// Whether the library's product can read it.
fn fits(matrix: &Tensor) -> bool {
    let here = matrix.device() == Device::Cpu && matrix.kind() == Kind::BFloat16;
    here && matrix.size().iter().all(|size| (1..i64::from(c_int::MAX)).contains(size))
        && layout(matrix).is_some()
        && gemm().is_some()
}

/// Whether it is transposed in memory, and the distance of its rows there.
fn layout(matrix: &Tensor) -> Option<(c_int, c_int)> {
    let ([rows, columns], [down, across]) = (pair(matrix.size())?, pair(matrix.stride())?);
    let distance = |stride: i64, least: i64| c_int::try_from(stride).ok().filter(|_| stride >= least);
    match (down, across) {
        (_, 1) => Some((AS_IT_IS, distance(down, columns)?)),
        (1, _) => Some((TRANSPOSED, distance(across, rows)?)),
        _ => None,
    }
}

fn pair(of: Vec<i64>) -> Option<[i64; 2]> {
    of.try_into().ok()
}

fn write(a: &Tensor, b: &Tensor, into: &mut Tensor, beta: f32) {
    let (Some([rows, inner]), Some([inner_of_b, columns])) = (pair(a.size()), pair(b.size())) else {
        unreachable!("callers look whether the matrices fit");
    };
    assert!(inner == inner_of_b && into.size() == [rows, columns], "matrices of other shapes");
    assert!(into.kind() == Kind::Float && into.device() == Device::Cpu && into.is_contiguous());
    let (gemm, a_layout, b_layout) = (gemm(), layout(a), layout(b));
    let (Some(gemm), Some((of_a, stride_a)), Some((of_b, stride_b))) = (gemm, a_layout, b_layout) else {
        unreachable!("callers look whether the matrices fit");
    };
    let [rows, columns, inner] = [rows, columns, inner].map(|size| size as c_int);
    // SAFETY: both are half-precision matrices on the processor with the strides they are given with, `into`
    // is contiguous and of the shape of their product; sizes were looked at by `fits`.
    unsafe {
        let (from_a, from_b) = (a.data_ptr().cast_const(), b.data_ptr().cast_const());
        let to = into.data_ptr().cast::<f32>();
        gemm(
            ROWS_FIRST, of_a, of_b, rows, columns, inner, 1.0, from_a, stride_a, from_b, stride_b, beta, to,
            columns,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In both precisions, turned or not, a part of a wider matrix, added to what is there or not.
    #[test]
    fn small_products_are_those_of_the_definition() {
        fn grid<T>(numbers: &[T], rows: usize, columns: usize, turned: bool) -> Grid<'_, T> {
            if turned {
                Grid::new(numbers, columns, rows, 11).turned()
            } else {
                Grid::new(numbers, rows, columns, 11)
            }
        }
        fn look<T: Factor>(numbers: impl Fn(usize, usize) -> Vec<T>) {
            let (rows, columns, inner) = (7, 5, 9);
            for turned in [[false, false], [true, false], [false, true], [true, true]] {
                let (a, b) = (numbers(11 * 11, 1), numbers(11 * 11, 2));
                let (a, b) = (grid(&a, rows, inner, turned[0]), grid(&b, inner, columns, turned[1]));
                for beta in [0.0, 1.0] {
                    let mut sum = vec![2.0f32; rows * 6];
                    // SAFETY: seven rows of five numbers.
                    unsafe { multiply_small(a, b, beta, sum.as_mut_ptr(), 6) };
                    for row in 0..rows {
                        for column in 0..columns {
                            let exact: f64 = (0..inner)
                                .map(|at| f64::from(a.at(row, at)) * f64::from(b.at(at, column)))
                                .sum();
                            let got = f64::from(sum[row * 6 + column]);
                            assert!(
                                (got - exact - 2.0 * f64::from(beta)).abs() < 1e-5,
                                "{turned:?} {beta}: {got} {exact}"
                            );
                        }
                        assert_eq!(sum[row * 6 + 5], 2.0, "written beside the product");
                    }
                }
            }
        }
        let wave =
            |count: usize, seed: usize| (0..count).map(move |at| ((at + seed * 7) as f32 * 0.37).sin());
        look::<f32>(|count, seed| wave(count, seed).collect());
        look::<bf16>(|count, seed| wave(count, seed).map(bf16::from_f32).collect());
    }

    /// Of two halves every product is exact in single precision, so all that may differ is the order of the
    /// sum.
    #[test]
    fn products_are_those_in_single_precision() {
        let matrix = |rows: i64, columns: i64, seed: i64| {
            let numbers = Tensor::arange_start(seed, seed + rows * columns, (Kind::Double, Device::Cpu));
            (numbers * 0.37).sin().view([rows, columns]).to_kind(Kind::BFloat16)
        };
        let (rows, columns, inner) = (5, 70, 33);
        let a = [
            matrix(rows, inner, 1),
            matrix(inner, rows, 1).tr(),
            matrix(rows, 2 * inner, 1).narrow(1, 3, inner),
        ];
        let b = [matrix(inner, columns, 2), matrix(columns, inner, 2).tr()];
        for a in &a {
            for b in &b {
                assert!(fits(a) == fits(b));
                let exact = a.to_kind(Kind::Double).mm(&b.to_kind(Kind::Double));
                let product = multiply(a, b);
                assert_eq!(product.kind(), Kind::Float);
                let far = |sum: &Tensor, exact: &Tensor| (sum - exact).abs().max().double_value(&[]);
                assert!(far(&product, &exact) < 1e-5, "{}", far(&product, &exact));
                let mut sum = product;
                add_product(&mut sum, a, b);
                assert!(far(&sum, &(exact * 2.0)) < 2e-5);
            }
        }
        // Nothing to read, and other kinds.
        assert_eq!(multiply(&a[0].narrow(0, 0, 0), &b[0]).size(), [0, columns]);
        let single = a[0].to_kind(Kind::Float);
        assert!(multiply(&single, &b[0]).equal(&single.mm(&b[0].to_kind(Kind::Float))));
    }
}
