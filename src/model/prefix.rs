//! Pages of keys and values by the tokens that led to them, so that a prompt that begins like an
//! earlier one is read from where they part.
//!
//! A tree over pages: a node is a page's tokens below the node of the tokens before them. The tree
//! is bounded in bytes; leaves that nobody asked for longest go first. Pages are shared, so dropping
//! a node never takes a page from a sequence that is using it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::kernels::PAGE;
use crate::model::kv::{KvCache, KvShape, Page};

type Tokens = [u32; PAGE];

/// A page's tokens after those of its parent; the root's children have parent 0.
type Key = (u64, Tokens);

#[derive(Debug)]
struct Node {
    id: u64,
    page: Arc<Page>,
    children: usize,
    /// When a prompt last passed here.
    used: u64,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    shape: KvShape,
    nodes: HashMap<Key, Node>,
    most_pages: usize,
    clock: u64,
    last_id: u64,
}

impl PrefixTree {
    /// Holds at most `bytes` bytes of pages.
    pub(crate) fn new(shape: KvShape, bytes: usize) -> Self {
        let most_pages = bytes / shape.page_bytes().max(1);
        Self { shape, nodes: HashMap::new(), most_pages, clock: 0, last_id: 0 }
    }

    /// A sequence that has read as many of `tokens` as are known, but not the last one: what comes
    /// after a prompt is predicted by reading its last token.
    pub(crate) fn start(&mut self, tokens: &[u32]) -> KvCache {
        self.clock += 1;
        let (mut parent, mut pages) = (0, Vec::new());
        let usable = tokens.len().saturating_sub(1);
        for piece in tokens[..usable].as_chunks::<PAGE>().0 {
            let Some(node) = self.nodes.get_mut(&(parent, *piece)) else { break };
            node.used = self.clock;
            parent = node.id;
            pages.push(Arc::clone(&node.page));
        }
        KvCache::with_pages(self.shape, pages)
    }

    /// Remembers the full pages of a sequence that has read `tokens`.
    pub(crate) fn keep(&mut self, tokens: &[u32], cache: &KvCache) {
        self.clock += 1;
        let mut parent: Option<Key> = None;
        let pieces = tokens.as_chunks::<PAGE>().0.iter().zip(cache.full_pages());
        for (piece, page) in pieces.take(self.most_pages) {
            let parent_id = parent.and_then(|key| self.nodes.get(&key)).map_or(0, |n| n.id);
            let key = (parent_id, *piece);
            if let Some(node) = self.nodes.get_mut(&key) {
                node.used = self.clock;
            } else {
                if self.nodes.len() >= self.most_pages && !self.drop_oldest_leaf(parent) {
                    return;
                }
                self.last_id += 1;
                let (id, page) = (self.last_id, Arc::clone(page));
                self.nodes.insert(key, Node { id, page, children: 0, used: self.clock });
                if let Some(node) = parent.and_then(|key| self.nodes.get_mut(&key)) {
                    node.children += 1;
                }
            }
            parent = Some(key);
        }
    }

    /// Whether there was a leaf besides `spared`.
    fn drop_oldest_leaf(&mut self, spared: Option<Key>) -> bool {
        let leaves = self.nodes.iter().filter(|(key, n)| n.children == 0 && Some(**key) != spared);
        let Some(oldest) = leaves.min_by_key(|(_, node)| node.used).map(|(key, _)| *key) else {
            return false;
        };
        self.nodes.remove(&oldest);
        if let Some(parent) = self.nodes.values_mut().find(|n| n.id == oldest.0) {
            parent.children -= 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels;
    use proptest::prelude::*;

    const SHAPE: KvShape = KvShape { layers: 1, heads: 1, head_dim: 4, floats: true };

    /// A sequence whose keys are its tokens.
    fn read(tokens: &[u32], mut cache: KvCache) -> KvCache {
        let new = &tokens[cache.len()..];
        cache.reserve(new.len());
        for (token, position) in new.iter().zip(cache.len()..) {
            cache.put(0, position, &[*token as f32; 4], &[0.0; 4]);
        }
        cache.advance(new.len());
        cache
    }

    fn keys(cache: &KvCache) -> Vec<u32> {
        let pages = cache.head(0, 0, cache.len());
        let key = |at: usize| match pages[at / PAGE] {
            kernels::Page::Floats(page) => page[at % PAGE] as u32,
            kernels::Page::Halves(page) => page[at % PAGE].to_f32() as u32,
        };
        (0..cache.len()).map(key).collect()
    }

    #[test]
    fn a_prompt_begins_where_it_parts_from_an_earlier_one() {
        let mut tree = PrefixTree::new(SHAPE, usize::MAX);
        let first: Vec<u32> = (0..70).collect();
        tree.keep(&first, &read(&first, KvCache::new(SHAPE)));
        assert_eq!(tree.start(&first).len(), 64);
        assert_eq!(tree.start(&first[..64]).len(), 48, "the last token is always read");
        let mut other = first.clone();
        other[40] = 7;
        assert_eq!(tree.start(&other).len(), 32);
        assert!(tree.start(&[9; 70]).is_empty() && tree.start(&[]).is_empty());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut tree = PrefixTree::new(SHAPE, 2 * SHAPE.page_bytes());
        let prompt = |token: u32| vec![token; PAGE + 1];
        for token in [1, 2] {
            tree.keep(&prompt(token), &read(&prompt(token), KvCache::new(SHAPE)));
        }
        assert_eq!(tree.start(&prompt(1)).len(), PAGE);
        tree.keep(&prompt(3), &read(&prompt(3), KvCache::new(SHAPE)));
        let held = [1, 2, 3].map(|token| tree.start(&prompt(token)).len());
        assert_eq!(held, [PAGE, 0, PAGE]);
    }

    proptest! {
        /// Whatever was kept and dropped: what a sequence starts with is what it would have read.
        #[test]
        fn what_is_shared_is_what_would_be_read(
            prompts in prop::collection::vec(prop::collection::vec(0_u32..2, 0..90), 1..30),
            pages in 0_usize..9,
        ) {
            let mut tree = PrefixTree::new(SHAPE, pages * SHAPE.page_bytes());
            for prompt in &prompts {
                let start = tree.start(prompt);
                prop_assert!(start.is_empty() || start.len() < prompt.len());
                let cache = read(prompt, start);
                prop_assert_eq!(&keys(&cache), prompt);
                tree.keep(prompt, &cache);
                prop_assert!(tree.nodes.len() <= pages);
                let children: usize = tree.nodes.values().map(|n| n.children).sum();
                let roots = tree.nodes.keys().filter(|k| k.0 == 0).count();
                prop_assert_eq!(children + roots, tree.nodes.len());
            }
        }
    }
}
