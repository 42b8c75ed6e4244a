//! Products of half-precision matrices, summed and answered in single precision. libtorch's own operators round the answer to half
//! precision again: of logits, two or three digits would be left.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor, no_grad_guard};

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
        // SAFETY: the library's function of that name has this signature (integers of 32 bits: libtorch links the LP64 interface).
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Gemm>(address) })
    })
}

/// `a b`, `[rows, inner]` times `[inner, columns]`, in single precision, whatever precision both are in. Either may be a transposed
/// view.
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
    // SAFETY: both are half-precision matrices on the processor with the strides they are given with, `into` is contiguous and of the
    // shape of their product; sizes were looked at by `fits`.
    unsafe {
        let (from_a, from_b) = (a.data_ptr().cast_const(), b.data_ptr().cast_const());
        let to = into.data_ptr().cast::<f32>();
        gemm(ROWS_FIRST, of_a, of_b, rows, columns, inner, 1.0, from_a, stride_a, from_b, stride_b, beta, to, columns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two halves every product is exact in single precision, so all that may differ is the order of the sum.
    #[test]
    fn products_are_those_in_single_precision() {
        let matrix = |rows: i64, columns: i64, seed: i64| {
            let numbers = Tensor::arange_start(seed, seed + rows * columns, (Kind::Double, Device::Cpu));
            (numbers * 0.37).sin().view([rows, columns]).to_kind(Kind::BFloat16)
        };
        let (rows, columns, inner) = (5, 70, 33);
        let a = [matrix(rows, inner, 1), matrix(inner, rows, 1).tr(), matrix(rows, 2 * inner, 1).narrow(1, 3, inner)];
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
