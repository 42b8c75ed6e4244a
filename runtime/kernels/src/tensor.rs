//! Borrows the memory of libtorch's tensors as slices, and multiplies bf16 tensors with results in f32.
//!
//! Several tensors may share memory (a parameter is a view of its model's vector), so that a `&mut Tensor`
//! does not guarantee exclusive access to its numbers. Therefore borrows are checked at run time, as by
//! [`std::cell::RefCell`]: a mutable borrow of memory that is borrowed already, or any borrow of memory that
//! is borrowed mutably, panics.
//!
//! What a safe caller can rely on: no two borrows of this module conflict, from any thread and through any
//! tensor. What it must ensure itself, since nothing checks it: **while a borrow lives, no operator of
//! libtorch writes that memory, and while a mutable one lives, none reads it**, through this tensor or
//! another that shares its memory. (`tch` has the same gap: its tensors can be cloned, sent to a thread, and
//! written there.) So a borrow stays within the function that takes it, between two operators. An
//! [`OwnedView`] may live longer: it has the weights of a model that is not trained meanwhile.

use std::ffi::c_int;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::gemm::{multiplies_bf16, multiply_large};
use crate::matrix_view::MatrixView;

/// An element type of tensors.
pub trait Element: Copy + sealed::Sealed + 'static {
    const KIND: Kind;
}

mod sealed {
    /// Only for the types of this module, because [`super::Element::KIND`] decides how memory is read.
    pub trait Sealed {}
}

macro_rules! elements {
    ($($element:ty => $kind:ident),*) => {
        $(
            impl sealed::Sealed for $element {}
            impl Element for $element {
                const KIND: Kind = Kind::$kind;
            }
        )*
    };
}

elements!(f32 => Float, f64 => Double, bf16 => BFloat16, f16 => Half, i16 => Int16);

/// A range of memory that is borrowed, in bytes; `exclusive` if mutably.
#[derive(Clone, PartialEq, Eq)]
struct BorrowedRange {
    bytes: Range<usize>,
    exclusive: bool,
}

/// All current borrows. There are only a few at a time, so a list is fastest.
static ACTIVE_BORROWS: Mutex<Vec<BorrowedRange>> = Mutex::new(Vec::new());

impl BorrowedRange {
    fn conflicts(&self, other: &BorrowedRange) -> bool {
        (self.exclusive || other.exclusive)
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// Keeps a range borrowed while it lives.
struct StorageBorrow(BorrowedRange);

impl StorageBorrow {
    fn new(start: usize, bytes: usize, exclusive: bool) -> StorageBorrow {
        let range = BorrowedRange { bytes: start..start + bytes, exclusive };
        let mut lent = ACTIVE_BORROWS.lock().unwrap_or_else(PoisonError::into_inner);
        if lent.iter().any(|other| range.conflicts(other)) {
            drop(lent);
            let access = if exclusive { "mutably" } else { "immutably" };
            panic!("cannot borrow a tensor's storage of {bytes} bytes {access}: it is already borrowed");
        }
        lent.push(range.clone());
        StorageBorrow(range)
    }
}

impl Drop for StorageBorrow {
    fn drop(&mut self) {
        let mut lent = ACTIVE_BORROWS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = lent.iter().rposition(|range| *range == self.0) {
            lent.swap_remove(own);
        }
    }
}

/// A shared borrow of a tensor's numbers.
pub struct View<'a, T> {
    numbers: &'a [T],
    _borrow: StorageBorrow,
}

/// A mutable borrow of a tensor's numbers.
pub struct ViewMut<'a, T> {
    numbers: &'a mut [T],
    _borrow: StorageBorrow,
}

impl<T> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.numbers
    }
}

impl<T> Deref for ViewMut<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.numbers
    }
}

impl<T> DerefMut for ViewMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.numbers
    }
}

fn is_here<T: Element>(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == T::KIND && tensor.is_contiguous()
}

/// Borrows a tensor's numbers; `None` unless they are of type `T`, contiguous and on the CPU. No operator of
/// libtorch may write them meanwhile, as the head of this module says.
///
/// # Panics
/// If they are borrowed mutably.
pub fn view<T: Element>(tensor: &Tensor) -> Option<View<'_, T>> {
    is_here::<T>(tensor).then(|| {
        let (start, length) = (tensor.data_ptr(), tensor.numel());
        let _borrow = StorageBorrow::new(start.addr(), length * size_of::<T>(), false);
        // SAFETY: there are `numel` numbers of that type while the tensor lives. No mutable borrow of them
        // exists, by the loan, and no operator writes them, by the contract of this module.
        View { numbers: unsafe { slice(start.cast(), length) }, _borrow }
    })
}

/// As [`view`], but mutable: no operator of libtorch may read or write the numbers meanwhile.
///
/// # Panics
/// If some of them are borrowed.
pub fn view_mut<T: Element>(tensor: &mut Tensor) -> Option<ViewMut<'_, T>> {
    is_here::<T>(tensor).then(|| {
        let (start, length) = (tensor.data_ptr(), tensor.numel());
        let _borrow = StorageBorrow::new(start.addr(), length * size_of::<T>(), true);
        // SAFETY: as above, and by loan and contract nothing reads them while they are borrowed mutably.
        let numbers = unsafe {
            if length == 0 { &mut [][..] } else { std::slice::from_raw_parts_mut(start.cast::<T>(), length) }
        };
        ViewMut { numbers, _borrow }
    })
}

/// # Safety
/// As for [`std::slice::from_raw_parts`], but with length 0 the pointer may be anything.
unsafe fn slice<'a, T>(start: *const T, length: usize) -> &'a [T] {
    // SAFETY: by the caller's promise.
    if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, length) } }
}

/// A tensor together with a shared borrow of its numbers, which can be read from any thread while this value
/// lives.
pub struct OwnedView<T> {
    start: *const T,
    length: usize,
    _borrow: StorageBorrow,
    _tensor: Mutex<Tensor>,
}

// SAFETY: the tensor is only kept alive; its numbers are only read, and nothing writes them while borrowed,
// by the loan and the contract of this module.
unsafe impl<T: Sync> Sync for OwnedView<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for OwnedView<T> {}

impl<T: Element> OwnedView<T> {
    /// `None` where [`view`] returns `None`.
    pub fn new(tensor: Tensor) -> Option<OwnedView<T>> {
        let (start, length) = (view::<T>(&tensor)?.as_ptr(), tensor.numel());
        let _borrow = StorageBorrow::new(start.addr(), length * size_of::<T>(), false);
        Some(OwnedView { start, length, _borrow, _tensor: Mutex::new(tensor) })
    }
}

impl<T> AsRef<[T]> for OwnedView<T> {
    fn as_ref(&self) -> &[T] {
        // SAFETY: the tensor lives as long as `self`, and is not written while its numbers are borrowed.
        unsafe { slice(self.start, self.length) }
    }
}

/// A borrowed bf16 matrix, possibly transposed, with any row stride.
struct BorrowedMatrix<'a> {
    grid: MatrixView<'a, bf16>,
    _borrow: StorageBorrow,
}

/// Borrows a matrix; `None` where the matrix library's product can't read it.
fn borrow_matrix(matrix: &Tensor) -> Option<BorrowedMatrix<'_>> {
    let ([rows, columns], [down, across]) = (pair(matrix.size())?, pair(matrix.stride())?);
    let fits = matrix.device() == Device::Cpu
        && matrix.kind() == Kind::BFloat16
        && [rows, columns].iter().all(|size| (1..i64::from(c_int::MAX)).contains(size));
    let stride = |stride: i64, least: i64| {
        usize::try_from(stride).ok().filter(|_| (least..=i64::from(c_int::MAX)).contains(&stride))
    };
    let (lines, width, stride, transposed) = match (down, across) {
        _ if !fits => return None,
        (_, 1) => (rows as usize, columns as usize, stride(down, columns)?, false),
        (1, _) => (columns as usize, rows as usize, stride(across, rows)?, true),
        _ => return None,
    };
    let length = (lines - 1) * stride + width;
    let start = matrix.data_ptr().cast_const().cast::<bf16>();
    let _borrow = StorageBorrow::new(start.addr(), length * size_of::<bf16>(), false);
    // SAFETY: the range from the first number to the last lives as long as the tensor, and no other code
    // writes it while it is borrowed.
    let grid = MatrixView::new(unsafe { slice(start, length) }, lines, width, stride);
    Some(BorrowedMatrix { grid: if transposed { grid.transposed() } else { grid }, _borrow })
}

fn pair(of: Vec<i64>) -> Option<[i64; 2]> {
    of.try_into().ok()
}

/// Borrows both factors, where the matrix library can multiply them.
fn factors<'a>(a: &'a Tensor, b: &'a Tensor) -> Option<[BorrowedMatrix<'a>; 2]> {
    if !multiplies_bf16() {
        return None;
    }
    Some([borrow_matrix(a)?, borrow_matrix(b)?])
}

/// `a b`, `[rows, inner]` times `[inner, columns]`, in f32 for any precision of the factors. Either may be a
/// transposed view. libtorch's own operator rounds the product of bf16 matrices to bf16, which would leave
/// two or three digits of logits.
pub fn multiply(a: &Tensor, b: &Tensor) -> Tensor {
    let _guard = no_grad_guard();
    let Some([left, right]) = factors(a, b) else {
        return a.to_kind(Kind::Float).mm(&b.to_kind(Kind::Float));
    };
    let mut product = Tensor::empty([a.size()[0], b.size()[1]], (Kind::Float, Device::Cpu));
    multiply_borrowed(&left, &right, false, &mut product);
    product
}

/// Whether the matrix library can compute [`multiply_by_rows`] for rows of this length.
pub fn multiplies_rows(inner: usize) -> bool {
    multiplies_bf16() && (1..=c_int::MAX as usize).contains(&inner)
}

/// `a b'` for consecutive rows of `b` in a slice, such as a part of a mapped file. Writes the columns of
/// `product`, f32 and contiguous, that start at `first`. `a` is `[rows, inner]`, bf16 and contiguous. With
/// [`crate::gemm::columns_at_once`] rows per call, the bits equal those of [`multiply`].
pub fn multiply_by_rows(a: &Tensor, b: &[bf16], product: &mut Tensor, first: usize) {
    let [rows, inner] = pair(a.size()).expect("a matrix").map(|size| size as usize);
    let [of_product, columns] = pair(product.size()).expect("a matrix").map(|size| size as usize);
    let of_b = b.len() / inner;
    assert!(
        of_product == rows && of_b * inner == b.len() && first + of_b <= columns,
        "a product of another shape"
    );
    let a = view::<bf16>(a).expect("rows in bf16, in order");
    let (a, b) =
        (MatrixView::new(&a, rows, inner, inner), MatrixView::new(b, of_b, inner, inner).transposed());
    let mut numbers = view_mut::<f32>(product).expect("a product in f32, in order");
    if rows > 0 {
        // SAFETY: it writes some columns of each row of the product, which is `columns` wide.
        unsafe { multiply_large(a, b, false, numbers.as_mut_ptr().add(first), columns) };
    }
}

/// Adds `a b` to `sum`, which is f32 and contiguous.
pub fn add_product(sum: &mut Tensor, a: &Tensor, b: &Tensor) {
    let _guard = no_grad_guard();
    match factors(a, b) {
        Some([left, right]) => {
            assert!(sum.size() == [a.size()[0], b.size()[1]], "a sum of another shape");
            multiply_borrowed(&left, &right, true, sum);
        }
        None => drop(sum.addmm_(&a.to_kind(Kind::Float), &b.to_kind(Kind::Float))),
    }
}

/// Writes `a b` to `sum`, which is f32, contiguous and of the product's shape, or adds it there.
fn multiply_borrowed(a: &BorrowedMatrix, b: &BorrowedMatrix, add: bool, sum: &mut Tensor) {
    let ([rows, _], [_, columns]) = (a.grid.shape(), b.grid.shape());
    if rows == 0 {
        return;
    }
    let mut numbers = view_mut::<f32>(sum).expect("a sum in f32, in order");
    // SAFETY: the sum has as many rows and columns.
    unsafe { multiply_large(a.grid, b.grid, add, numbers.as_mut_ptr(), columns) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::columns_at_once;

    #[test]
    fn borrowed_storage_is_not_borrowed_mutably() {
        let whole = Tensor::zeros([6], (Kind::Float, Device::Cpu));
        let [mut first, mut again, mut other] =
            [(0, 3), (2, 2), (3, 3)].map(|(start, length)| whole.narrow(0, start, length));
        let refused = |borrow_matrix: &mut dyn FnMut()| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(borrow_matrix)).is_err()
        };
        {
            let _first = view_mut::<f32>(&mut first).unwrap();
            // Parts that are apart, of one vector.
            view_mut::<f32>(&mut other).unwrap().fill(7.0);
            assert!(refused(&mut || drop(view_mut::<f32>(&mut again))));
            assert!(refused(&mut || drop(view::<f32>(&whole))));
        }
        {
            let _read = (view::<f32>(&whole).unwrap(), view::<f32>(&other).unwrap());
            assert!(refused(&mut || drop(view_mut::<f32>(&mut again))));
        }
        let held = OwnedView::<f32>::new(whole.shallow_clone()).unwrap();
        assert!(refused(&mut || drop(view_mut::<f32>(&mut again))));
        assert_eq!(held.as_ref(), [0.0, 0.0, 0.0, 7.0, 7.0, 7.0]);
        drop(held);
        view_mut::<f32>(&mut again).unwrap().fill(1.0);
        assert_eq!(&*view::<f32>(&whole).unwrap(), [0.0, 0.0, 1.0, 1.0, 7.0, 7.0]);
        // Another kind, and numbers that are not in order.
        assert!(view::<bf16>(&whole).is_none());
        assert!(view::<f32>(&whole.view([2, 3]).tr()).is_none());
        assert!(view_mut::<f32>(&mut Tensor::zeros([0], (Kind::Float, Device::Cpu))).unwrap().is_empty());
    }

    /// Every product of two bf16 numbers is exact in single precision, so results may differ only by the
    /// order of the sums.
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
                assert!(borrow_matrix(a).is_some() && borrow_matrix(b).is_some());
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

    /// A matrix in a slice gives the same bits as the same matrix in a tensor.
    #[test]
    fn a_matrix_in_a_slice_is_multiplied_as_a_tensor() {
        let matrix = |rows: i64, columns: i64| {
            let numbers = Tensor::arange(rows * columns, (Kind::Double, Device::Cpu));
            (numbers * 0.37).sin().view([rows, columns]).to_kind(Kind::BFloat16)
        };
        let inner = 1000;
        if !multiplies_rows(inner) {
            return;
        }
        let at_once = columns_at_once(inner);
        let outputs = at_once + 300;
        let (a, b) = (matrix(7, inner as i64), matrix(outputs as i64, inner as i64));
        let expected = multiply(&a, &b.tr());
        let mut product = Tensor::full([7, outputs as i64], 9.0, (Kind::Float, Device::Cpu));
        let b = view::<bf16>(&b).unwrap();
        for (index, part) in b.chunks(at_once * inner).enumerate() {
            multiply_by_rows(&a, part, &mut product, index * at_once);
        }
        assert!(product.equal(&expected));
    }

    /// One call's columns, and more; the numbers are integers, so that no order of sums rounds.
    #[test]
    fn wide_products_are_made_block_by_block() {
        let (rows, inner) = (3, 1 << 20);
        let columns = 10;
        let matrix = |rows: i64, columns: i64, step: i64| {
            let numbers = Tensor::arange(rows * columns, (Kind::Int64, Device::Cpu));
            ((numbers * step).remainder(7) - 3).view([rows, columns]).to_kind(Kind::BFloat16)
        };
        let a = matrix(rows, inner, 3);
        for b in [matrix(inner, columns, 5), matrix(columns, inner, 5).tr()] {
            let exact = a.to_kind(Kind::Float).mm(&b.to_kind(Kind::Float));
            let mut sum = multiply(&a, &b);
            assert!(sum.equal(&exact));
            add_product(&mut sum, &a, &b);
            assert!(sum.equal(&(exact * 2.0)));
        }
    }
}
