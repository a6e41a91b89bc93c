//! The keys and values of the tokens a model has read: pages of sixteen tokens, kept outside the
//! layers and shared between sequences. In f16; in f32 for weights of floats.
//!
//! A page that two sequences hold is never written: whoever wants to write makes a copy first. So a
//! sequence can go back ([`KvCache::truncate`]), try several continuations ([`Clone`]) or begin
//! where another one has been (`prefix.rs`) for the price of at most one page.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::model::kernels::{self, PAGE};

/// Sizes of a cache, given by the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Kept as f32.
    pub floats: bool,
}

impl KvShape {
    /// Numbers of one head of one layer in a page: keys `[head_dim, PAGE]`, values `[PAGE, head_dim]`.
    fn head(self) -> usize {
        2 * PAGE * self.head_dim
    }

    /// Bytes of a page over all layers.
    pub fn page_bytes(self) -> usize {
        let each = if self.floats { size_of::<f32>() } else { size_of::<f16>() };
        self.layers * self.heads * self.head() * each
    }
}

/// [`PAGE`] tokens over all layers, `[layers, heads, keys and values]`.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Halves(Box<[f16]>),
    Floats(Box<[f32]>),
}

impl Page {
    fn new(shape: KvShape) -> Self {
        let numbers = shape.layers * shape.heads * shape.head();
        if shape.floats {
            Self::Floats(vec![0.0; numbers].into())
        } else {
            Self::Halves(vec![f16::ZERO; numbers].into())
        }
    }

    /// The numbers of one head, from `at` on.
    fn part(&self, at: usize, size: usize) -> kernels::Page<'_> {
        match self {
            Self::Halves(page) => kernels::Page::Halves(&page[at..at + size]),
            Self::Floats(page) => kernels::Page::Floats(&page[at..at + size]),
        }
    }
}

/// Writes key and value of a token to its slot of a head's part of a page.
fn put_head<T: Copy>(part: &mut [T], slot: usize, key: &[T], value: &[T]) {
    let dim = key.len();
    let (keys, values) = part.split_at_mut(PAGE * dim);
    values[slot * dim..(slot + 1) * dim].copy_from_slice(value);
    for (keys, key) in keys.chunks_exact_mut(PAGE).zip(key) {
        keys[slot] = *key;
    }
}

/// One sequence.
#[derive(Clone, Debug)]
pub struct KvCache {
    shape: KvShape,
    pages: Vec<Arc<Page>>,
    len: usize,
    /// A head's key and value on their way into a page.
    halves: Vec<f16>,
}

impl KvCache {
    /// An empty cache that owns no memory yet.
    pub fn new(shape: KvShape) -> Self {
        Self::with_pages(shape, Vec::new())
    }

    /// A sequence that begins with these full pages.
    pub(crate) fn with_pages(shape: KvShape, pages: Vec<Arc<Page>>) -> Self {
        let len = pages.len() * PAGE;
        Self { shape, pages, len, halves: Vec::new() }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pages whose tokens are all read.
    pub(crate) fn full_pages(&self) -> &[Arc<Page>] {
        &self.pages[..self.len / PAGE]
    }

    /// Forgets all but the first `len` tokens; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(PAGE));
    }

    /// Makes room for `more` tokens after the ones held.
    pub(crate) fn reserve(&mut self, more: usize) {
        let shape = self.shape;
        self.pages.resize_with((self.len + more).div_ceil(PAGE), || Arc::new(Page::new(shape)));
    }

    /// Writes key and value (`[heads, head_dim]`) of a token that there is room for. It counts only
    /// after [`KvCache::advance`], so a pass that fails half-way leaves the sequence as it was.
    pub(crate) fn put(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        let (head_size, slot) = (self.shape.head(), position % PAGE);
        let page = Arc::make_mut(&mut self.pages[position / PAGE]);
        let rows = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
        for (head, (key, value)) in rows.enumerate().take(heads) {
            let at = (layer * heads + head) * head_size;
            match page {
                Page::Floats(page) => put_head(&mut page[at..at + head_size], slot, key, value),
                Page::Halves(page) => {
                    self.halves.resize(2 * head_dim, f16::ZERO);
                    let (own_key, own_value) = self.halves.split_at_mut(head_dim);
                    own_key.convert_from_f32_slice(key);
                    own_value.convert_from_f32_slice(value);
                    put_head(&mut page[at..at + head_size], slot, own_key, own_value);
                }
            }
        }
    }

    /// Keys and values of one head, page by page, as far as `tokens` tokens reach.
    pub(crate) fn head(&self, layer: usize, head: usize, tokens: usize) -> Vec<kernels::Page<'_>> {
        let size = self.shape.head();
        let at = (layer * self.shape.heads + head) * size;
        self.pages[..tokens.div_ceil(PAGE)].iter().map(|page| page.part(at, size)).collect()
    }

    /// Counts `n` tokens that every layer has put.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, heads: 2, head_dim: 4, floats: false };

    fn push(cache: &mut KvCache, value: f32, rows: usize) {
        cache.reserve(rows);
        for row in 0..rows {
            for layer in 0..SHAPE.layers {
                let position = cache.len() + row;
                cache.put(layer, position, &[value; 8], &[-value; 8]);
            }
        }
        cache.advance(rows);
    }

    /// First channel of the last head's keys and values, by token.
    fn read(cache: &KvCache) -> Vec<(f32, f32)> {
        let pages = cache.head(1, 1, cache.len());
        let token = |at: usize| {
            let (slot, value) = (at % PAGE, (PAGE + at % PAGE) * SHAPE.head_dim);
            match pages[at / PAGE] {
                kernels::Page::Halves(page) => (page[slot].to_f32(), page[value].to_f32()),
                kernels::Page::Floats(page) => (page[slot], page[value]),
            }
        };
        (0..cache.len()).map(token).collect()
    }

    #[test]
    fn truncating_then_appending_replaces_the_tail() {
        let mut cache = KvCache::new(SHAPE);
        push(&mut cache, 1.0, 2);
        push(&mut cache, 2.0, 30);
        cache.truncate(3);
        cache.truncate(99);
        push(&mut cache, 3.0, 1);
        assert_eq!(read(&cache), [(1.0, -1.0), (1.0, -1.0), (2.0, -2.0), (3.0, -3.0)]);
    }

    #[test]
    fn floats_are_kept_as_they_are() {
        let shape = KvShape { floats: true, ..SHAPE };
        assert_eq!(shape.page_bytes(), 2 * SHAPE.page_bytes());
        let mut cache = KvCache::new(shape);
        push(&mut cache, 1.0 / 3.0, 1);
        assert_eq!(read(&cache), [(1.0 / 3.0, -1.0 / 3.0)]);
    }

    #[test]
    fn a_copy_goes_its_own_way_and_shares_what_is_full() {
        let mut cache = KvCache::new(SHAPE);
        push(&mut cache, 1.0, PAGE + 2);
        let mut copy = cache.clone();
        push(&mut cache, 2.0, 1);
        push(&mut copy, 3.0, 1);
        assert_eq!(read(&cache)[PAGE + 1..], [(1.0, -1.0), (2.0, -2.0)]);
        assert_eq!(read(&copy)[PAGE + 1..], [(1.0, -1.0), (3.0, -3.0)]);
        assert!(Arc::ptr_eq(&cache.full_pages()[0], &copy.full_pages()[0]));
        let again = KvCache::with_pages(SHAPE, copy.full_pages().to_vec());
        assert_eq!((again.len(), read(&again)), (PAGE, vec![(1.0, -1.0); PAGE]));
    }
}
