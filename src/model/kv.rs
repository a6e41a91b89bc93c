//! The keys and values of the tokens a model has read, kept outside its layers so that a reader
//! can go back ([`KvCache::truncate`]) or try several continuations ([`KvCache::fork`]).

use candle_core::{DType, Device, Result, Tensor};

/// Rows by which buffers grow at least.
const STEP: usize = 256;

/// Sizes of a cache, given by the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// One buffer pair per layer, `[capacity, heads, head_dim]` in f32; the first `len` rows are valid.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache that owns no memory yet.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, layers: Vec::new(), capacity: 0, len: 0 }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` tokens; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// An independent copy of the tokens held; neither sees what the other appends.
    pub fn fork(&self) -> Result<Self> {
        let mut fork = Self::new(self.shape);
        fork.reserve(self.len)?;
        fork.len = self.len;
        if self.len > 0 {
            for (to, from) in fork.layers.iter().zip(&self.layers) {
                copy_rows(to, from, self.len)?;
            }
        }
        Ok(fork)
    }

    /// Makes room for `more` tokens after the ones held.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.len + more;
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed.max(self.capacity * 2).next_multiple_of(STEP);
        let KvShape { layers, heads, head_dim } = self.shape;
        let buffer = || Tensor::zeros((capacity, heads, head_dim), DType::F32, &Device::Cpu);
        let mut grown = Vec::with_capacity(layers);
        for layer in 0..layers {
            let pair = (buffer()?, buffer()?);
            if self.len > 0 {
                copy_rows(&pair, &self.layers[layer], self.len)?;
            }
            grown.push(pair);
        }
        (self.layers, self.capacity) = (grown, capacity);
        Ok(())
    }

    /// Writes the keys and values (`[n, heads, head_dim]`) of the next `n` tokens and returns those
    /// of all tokens so far, as views. Needs room ([`KvCache::reserve`]); counts only after
    /// [`KvCache::advance`], so that a pass that fails half-way leaves the cache as it was.
    pub(crate) fn put(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = &self.layers[layer];
        let rows = k.dim(0)?;
        keys.slice_set(k, 0, self.len)?;
        values.slice_set(v, 0, self.len)?;
        Ok((keys.narrow(0, 0, self.len + rows)?, values.narrow(0, 0, self.len + rows)?))
    }

    /// Counts `n` tokens that every layer has put.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

fn copy_rows(to: &(Tensor, Tensor), from: &(Tensor, Tensor), rows: usize) -> Result<()> {
    to.0.slice_set(&from.0.narrow(0, 0, rows)?, 0, 0)?;
    to.1.slice_set(&from.1.narrow(0, 0, rows)?, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, heads: 1, head_dim: 4 };

    fn push(cache: &mut KvCache, value: f32, rows: usize) -> Tensor {
        cache.reserve(rows).unwrap();
        let x = Tensor::full(value, (rows, 1, 4), &Device::Cpu).unwrap();
        let mut seen = None;
        for layer in 0..SHAPE.layers {
            seen = Some(cache.put(layer, &x, &x).unwrap().0);
        }
        cache.advance(rows);
        seen.unwrap()
    }

    fn first_column(x: &Tensor) -> Vec<f32> {
        x.narrow(2, 0, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn truncating_then_appending_replaces_the_tail() {
        let mut cache = KvCache::new(SHAPE);
        push(&mut cache, 1.0, 2);
        push(&mut cache, 2.0, 3);
        cache.truncate(3);
        cache.truncate(9);
        let seen = push(&mut cache, 3.0, 1);
        assert_eq!(cache.len(), 4);
        assert_eq!(first_column(&seen), [1.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn growing_keeps_what_was_held() {
        let mut cache = KvCache::new(SHAPE);
        push(&mut cache, 1.0, STEP - 1);
        let seen = push(&mut cache, 2.0, STEP);
        let column = first_column(&seen);
        assert_eq!(column.len(), 2 * STEP - 1);
        assert!(column[..STEP - 1].iter().all(|&x| x == 1.0));
        assert!(column[STEP - 1..].iter().all(|&x| x == 2.0));
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut cache = KvCache::new(SHAPE);
        push(&mut cache, 1.0, 2);
        let mut fork = cache.fork().unwrap();
        let mine = push(&mut cache, 2.0, 1);
        let theirs = push(&mut fork, 3.0, 1);
        assert_eq!(first_column(&mine), [1.0, 1.0, 2.0]);
        assert_eq!(first_column(&theirs), [1.0, 1.0, 3.0]);
        assert!(KvCache::new(SHAPE).fork().unwrap().is_empty());
    }
}
