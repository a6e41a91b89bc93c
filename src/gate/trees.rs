//! Boosted trees: many small decision trees whose leaves add up to log-odds.
//!
//! They see what a weighted sum cannot: that a small margin is harmless where all lists agree, and
//! not where they do not. Gradient boosting (Friedman 2001) with Newton leaves, penalised as in
//! XGBoost (Chen & Guestrin 2016), cut evenly over the values met; no randomness anywhere.

use serde::{Deserialize, Serialize};

use crate::gate::logistic::{Row, sigmoid};

const ROUNDS: usize = 120;
const DEPTH: usize = 3;
/// Share of its own best step that each tree may take.
const PACE: f64 = 0.05;
/// Penalty on a leaf's square.
const L2: f64 = 5.0;
/// Least weight of the rows in a leaf.
const LEAST_LEAF: f64 = 20.0;
/// Most places at which an input can be cut.
const CUTS: usize = 32;

/// bias + Σ over the trees of the leaf that `x` falls into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boosted {
    bias: f64,
    trees: Vec<Vec<Node>>,
}

/// The first of a tree's nodes is its root; children stand behind their parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    /// What the tree would add if it ended here.
    value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<Split>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Split {
    input: usize,
    /// Smaller values go left.
    cut: f64,
    left: usize,
    right: usize,
}

impl Boosted {
    /// Fits to rows of one width; no rows give the model that says one half.
    pub fn fit(rows: &[Row]) -> Self {
        let total: f64 = rows.iter().map(|r| r.weight).sum();
        let positive: f64 = rows.iter().map(|r| r.weight * r.target).sum();
        let share = (positive + 1.0) / (total + 2.0);
        let mut model = Self { bias: (share / (1.0 - share)).ln(), trees: Vec::new() };
        let binned = Binned::new(rows);
        let mut scores = vec![model.bias; rows.len()];
        for _ in 0..ROUNDS {
            let slopes: Vec<Slope> =
                rows.iter().zip(&scores).map(|(r, s)| Slope::of(r, *s)).collect();
            let mut tree = Vec::new();
            grow(&mut tree, &binned, &slopes, (0..rows.len()).collect(), DEPTH);
            for (score, row) in scores.iter_mut().zip(rows) {
                *score += leaf(&tree, &row.x).last().map_or(0.0, |node| node.value);
            }
            model.trees.push(tree);
        }
        model
    }

    /// Log-odds.
    pub fn score(&self, x: &[f64]) -> f64 {
        let values = self.trees.iter().filter_map(|tree| leaf(tree, x).last());
        self.bias + values.map(|node| node.value).sum::<f64>()
    }

    /// What each input adds to the log-odds of `x`: the change of value at each split it decides
    /// (Saabas 2014). With the mean's share, they add up to the score.
    pub fn contributions(&self, x: &[f64]) -> Vec<f64> {
        let mut by_input = vec![0.0; x.len()];
        for tree in &self.trees {
            let path: Vec<&Node> = leaf(tree, x).collect();
            for pair in path.windows(2) {
                if let Some(split) = pair[0].split {
                    by_input[split.input] += pair[1].value - pair[0].value;
                }
            }
        }
        by_input
    }

    /// True when every tree ends, whatever it is asked, within inputs of this width.
    pub fn is_sound(&self, width: usize) -> bool {
        self.trees.iter().all(|tree| {
            let sound = |(at, node): (usize, &Node)| {
                let inside = |child: usize| child > at && child < tree.len();
                node.split.is_none_or(|s| s.input < width && inside(s.left) && inside(s.right))
            };
            tree.iter().enumerate().all(sound)
        })
    }
}

/// The nodes from the root to the leaf of `x`.
fn leaf<'a>(tree: &'a [Node], x: &'a [f64]) -> impl Iterator<Item = &'a Node> {
    std::iter::successors(tree.first(), move |node| {
        let Split { input, cut, left, right } = node.split?;
        tree.get(if x[input] < cut { left } else { right })
    })
}

/// First and second derivative of the loss at a row's score, and the row's weight.
#[derive(Clone, Copy, Debug, Default)]
struct Slope {
    first: f64,
    second: f64,
    weight: f64,
}

impl Slope {
    fn of(row: &Row, score: f64) -> Self {
        let p = sigmoid(score);
        Self {
            first: row.weight * (p - row.target),
            second: row.weight * p * (1.0 - p),
            weight: row.weight,
        }
    }

    fn add(&mut self, other: Self) {
        self.first += other.first;
        self.second += other.second;
        self.weight += other.weight;
    }

    fn minus(self, other: Self) -> Self {
        Self {
            first: self.first - other.first,
            second: self.second - other.second,
            weight: self.weight - other.weight,
        }
    }

    /// The leaf value that lowers the penalised loss most.
    fn value(self) -> f64 {
        -PACE * self.first / (self.second + L2)
    }

    fn gain(self) -> f64 {
        self.first * self.first / (self.second + L2)
    }
}

/// Rows with each value replaced by the number of cuts at or below it.
struct Binned {
    cuts: Vec<Vec<f64>>,
    bins: Vec<Vec<u8>>,
}

impl Binned {
    fn new(rows: &[Row]) -> Self {
        let width = rows.first().map_or(0, |r| r.x.len());
        let cuts: Vec<Vec<f64>> = (0..width).map(|input| cuts(rows, input)).collect();
        let bin = |row: &Row| {
            let place = |(x, cuts): (&f64, &Vec<f64>)| cuts.partition_point(|c| c <= x) as u8;
            row.x.iter().zip(&cuts).map(place).collect()
        };
        let bins = rows.iter().map(bin).collect();
        Self { cuts, bins }
    }
}

/// Values between which rows can be parted, evenly spread over the different ones.
fn cuts(rows: &[Row], input: usize) -> Vec<f64> {
    let mut values: Vec<f64> = rows.iter().map(|r| r.x[input]).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let gaps = values.len().saturating_sub(1);
    let count = gaps.min(CUTS);
    let between = |gap: usize| (values[gap] + values[gap + 1]) / 2.0;
    (0..count).map(|step| between(step * gaps / count)).collect()
}

/// Adds the node of these rows, and below it what parts them best.
fn grow(
    tree: &mut Vec<Node>,
    binned: &Binned,
    slopes: &[Slope],
    rows: Vec<usize>,
    depth: usize,
) -> usize {
    let mut total = Slope::default();
    rows.iter().for_each(|&row| total.add(slopes[row]));
    let here = tree.len();
    tree.push(Node { value: total.value(), split: None });
    let best = if depth == 0 { None } else { best_split(binned, slopes, &rows, total) };
    if let Some((input, bin)) = best {
        let (left, right): (Vec<usize>, Vec<usize>) =
            rows.into_iter().partition(|&row| usize::from(binned.bins[row][input]) <= bin);
        let left = grow(tree, binned, slopes, left, depth - 1);
        let right = grow(tree, binned, slopes, right, depth - 1);
        tree[here].split = Some(Split { input, cut: binned.cuts[input][bin], left, right });
    }
    here
}

/// Input and last bin on the left side of the split that gains most; `None` when none gains.
fn best_split(
    binned: &Binned,
    slopes: &[Slope],
    rows: &[usize],
    total: Slope,
) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (input, cuts) in binned.cuts.iter().enumerate() {
        let mut sums = vec![Slope::default(); cuts.len() + 1];
        rows.iter().for_each(|&row| sums[usize::from(binned.bins[row][input])].add(slopes[row]));
        let mut left = Slope::default();
        for (bin, sum) in sums.iter().take(cuts.len()).enumerate() {
            left.add(*sum);
            let right = total.minus(left);
            if left.weight < LEAST_LEAF || right.weight < LEAST_LEAF {
                continue;
            }
            let gain = left.gain() + right.gain() - total.gain();
            if gain > 1e-9 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, input, bin));
            }
        }
    }
    best.map(|(_, input, bin)| (input, bin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::SplitMix64;

    /// Right in the middle of one input, if the other is not low: no weighted sum can tell.
    fn middling(n: usize) -> Vec<Row> {
        let mut random = SplitMix64::new(5);
        (0..n)
            .map(|_| {
                let x = [f64::from(random.unit()), f64::from(random.unit()), 1.0];
                let right = (0.3..0.7).contains(&x[0]) && x[1] > 0.3;
                Row { x: x.to_vec(), target: f64::from(u8::from(right)), weight: 1.0 }
            })
            .collect()
    }

    #[test]
    fn learns_what_no_weighted_sum_can() {
        let model = Boosted::fit(&middling(2000));
        for (x, right) in
            [([0.5, 0.8], true), ([0.1, 0.8], false), ([0.9, 0.8], false), ([0.5, 0.1], false)]
        {
            let p = sigmoid(model.score(&[x[0], x[1], 1.0]));
            assert!(if right { p > 0.9 } else { p < 0.1 }, "{x:?} {p}");
        }
        assert!(model.is_sound(3) && !model.is_sound(1));
    }

    #[test]
    fn contributions_and_the_trees_means_make_the_score() {
        let model = Boosted::fit(&middling(500));
        let x = [0.3, 0.9, 1.0];
        let roots: f64 = model.trees.iter().map(|tree| tree[0].value).sum();
        let parts = model.contributions(&x);
        let sum = model.bias + roots + parts.iter().sum::<f64>();
        assert!((sum - model.score(&x)).abs() < 1e-9);
        assert_eq!(parts[2], 0.0, "what never varies decides nothing");
    }

    #[test]
    fn few_or_no_rows_give_the_base_rate() {
        assert_eq!(Boosted::fit(&[]).score(&[]), 0.0);
        let model = Boosted::fit(&middling(30));
        let (low, high) = (model.score(&[0.1, 0.1, 1.0]), model.score(&[0.9, 0.1, 1.0]));
        assert_eq!(low, high, "thirty rows make no two leaves");
    }

    #[test]
    fn a_binary_input_is_cut_between_its_values() {
        let rows: Vec<Row> = (0..200)
            .map(|i| Row { x: vec![f64::from(i % 2)], target: f64::from(i % 2), weight: 1.0 })
            .collect();
        let model = Boosted::fit(&rows);
        assert!(model.score(&[1.0]) > 2.0 && model.score(&[0.0]) < -2.0);
    }
}
