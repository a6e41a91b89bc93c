//! A matrix of which every task writes its own part.

use std::marker::PhantomData;

/// Rows of `width` values, writable in parts from many threads at once.
pub(super) struct SharedRows<'a, T> {
    start: *mut T,
    len: usize,
    width: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts that threads take are disjoint by `part`'s contract, and `T` may be sent.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(super) fn new(rows: &'a mut [T], width: usize) -> Self {
        Self { start: rows.as_mut_ptr(), len: rows.len(), width, borrow: PhantomData }
    }

    /// `count` values of a row from `column` on.
    ///
    /// # Safety
    /// No other part that overlaps this one lives at the same time.
    ///
    /// # Panics
    /// When the part is outside the rows.
    #[expect(clippy::mut_from_ref, reason = "handing out disjoint parts is what this type is for")]
    pub(super) unsafe fn part(&self, row: usize, column: usize, count: usize) -> &mut [T] {
        let at = row * self.width + column;
        assert!(column + count <= self.width && at + count <= self.len, "outside the rows");
        // SAFETY: inside the borrowed slice, as just checked; alone, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}
