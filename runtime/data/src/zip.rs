//! Zipping lists of equal length.

/// Pairs two lists element by element. `Iterator::zip` would silently drop the extra elements of the longer
/// one: after a missing element, every element would be paired with its neighbour's.
///
/// # Panics
/// If their lengths differ.
#[track_caller]
pub fn zip_equal<A, B>(a: A, b: B) -> std::iter::Zip<A::IntoIter, B::IntoIter>
where
    A: IntoIterator<IntoIter: ExactSizeIterator>,
    B: IntoIterator<IntoIter: ExactSizeIterator>,
{
    let (a, b) = (a.into_iter(), b.into_iter());
    assert_eq!(a.len(), b.len(), "lists that belong together have one length");
    a.zip(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_one_length_are_zipped() {
        assert!(zip_equal([1, 2], &[3, 4]).eq([(1, &3), (2, &4)]));
    }

    #[test]
    #[should_panic(expected = "have one length")]
    fn a_list_that_is_longer_is_refused() {
        let _ = zip_equal([1, 2], [3]);
    }
}
