//! Logistic regression with an L2 penalty, fitted by Newton's method; no randomness anywhere.

use serde::{Deserialize, Serialize};

/// σ(bias + weights · x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    pub bias: f64,
    pub weights: Vec<f64>,
}

/// One training row; `target` is 0 or 1, or between them where a label is smoothed.
#[derive(Clone, Debug)]
pub struct Row {
    pub x: Vec<f64>,
    pub target: f64,
    pub weight: f64,
}

const MAX_STEPS: usize = 100;
/// Added to the curvature so that constant columns and separable rows still give a finite step.
const DAMPING: f64 = 1e-9;

impl Logistic {
    /// Minimises Σ weight · cross-entropy + `l2`/2 · |weights|²; the bias is not penalised.
    /// This is scikit-learn's `LogisticRegression` with C = 1/`l2`. All rows have one width;
    /// no rows give the model that says one half.
    pub fn fit(rows: &[Row], l2: f64) -> Self {
        let width = rows.first().map_or(0, |r| r.x.len());
        let mut model = Self { bias: 0.0, weights: vec![0.0; width] };
        let mut loss = model.objective(rows, l2);
        for _ in 0..MAX_STEPS {
            let Some(step) = model.newton_step(rows, l2) else { break };
            let (next, next_loss) = model.line_search(rows, l2, &step, loss);
            let gain = loss - next_loss;
            if gain <= 0.0 {
                break;
            }
            (model, loss) = (next, next_loss);
            if gain < 1e-12 * (1.0 + loss.abs()) {
                break;
            }
        }
        model
    }

    /// Log-odds.
    pub fn score(&self, x: &[f64]) -> f64 {
        self.bias + self.weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()
    }

    pub fn probability(&self, x: &[f64]) -> f64 {
        sigmoid(self.score(x))
    }

    fn objective(&self, rows: &[Row], l2: f64) -> f64 {
        let penalty = 0.5 * l2 * self.weights.iter().map(|w| w * w).sum::<f64>();
        let loss = |r: &Row| r.weight * cross_entropy(self.score(&r.x), r.target);
        penalty + rows.iter().map(loss).sum::<f64>()
    }

    /// H⁻¹ g, the bias last.
    fn newton_step(&self, rows: &[Row], l2: f64) -> Option<Vec<f64>> {
        let n = self.weights.len() + 1;
        let mut gradient: Vec<f64> = self.weights.iter().map(|w| l2 * w).collect();
        gradient.push(0.0);
        let mut hessian = vec![0.0; n * n];
        for i in 0..n {
            hessian[i * n + i] = DAMPING + if i + 1 < n { l2 } else { 0.0 };
        }
        let mut x = vec![1.0; n];
        for row in rows {
            x[..n - 1].copy_from_slice(&row.x);
            let p = self.probability(&row.x);
            let residual = row.weight * (p - row.target);
            let curvature = row.weight * p * (1.0 - p);
            for i in 0..n {
                gradient[i] += residual * x[i];
                for j in 0..=i {
                    hessian[i * n + j] += curvature * x[i] * x[j];
                }
            }
        }
        solve_positive(&mut hessian, gradient)
    }

    /// Halves the step until the objective falls.
    fn line_search(&self, rows: &[Row], l2: f64, step: &[f64], loss: f64) -> (Self, f64) {
        let mut size = 1.0;
        loop {
            let mut next = self.clone();
            for (w, s) in next.weights.iter_mut().zip(step) {
                *w -= size * s;
            }
            next.bias -= size * step.last().copied().unwrap_or(0.0);
            let next_loss = next.objective(rows, l2);
            if next_loss < loss || size < 1e-6 {
                return (next, next_loss);
            }
            size *= 0.5;
        }
    }
}

/// Solves A x = b by Cholesky; A is symmetric, its lower triangle is given row by row.
fn solve_positive(a: &mut [f64], mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i != j {
                a[i * n + j] = rest / a[j * n + j];
            } else if rest > 0.0 {
                a[i * n + i] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| a[i * n + k] * b[k]).sum();
        b[i] = (b[i] - dot) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| a[k * n + i] * b[k]).sum();
        b[i] = (b[i] - dot) / a[i * n + i];
    }
    Some(b)
}

pub fn sigmoid(score: f64) -> f64 {
    if score >= 0.0 {
        1.0 / (1.0 + (-score).exp())
    } else {
        let e = score.exp();
        e / (1.0 + e)
    }
}

/// −t ln σ(s) − (1 − t) ln (1 − σ(s)), without overflow.
pub fn cross_entropy(score: f64, target: f64) -> f64 {
    score.max(0.0) - score * target + (-score.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(x: &[f64], target: f64) -> Row {
        Row { x: x.to_vec(), target, weight: 1.0 }
    }

    #[test]
    fn one_binary_feature_has_a_closed_form() {
        // Of 10 rows with x = 0, 3 are positive; of 10 with x = 1, 8 are. Unpenalised maximum
        // likelihood gives each group its own share.
        let mut rows: Vec<Row> = (0..10).map(|i| row(&[0.0], f64::from(i < 3))).collect();
        rows.extend((0..10).map(|i| row(&[1.0], f64::from(i < 8))));
        let model = Logistic::fit(&rows, 0.0);
        assert!((model.probability(&[0.0]) - 0.3).abs() < 1e-6);
        assert!((model.probability(&[1.0]) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_weight_counts_like_a_copy() {
        let once = [row(&[0.2], 1.0), row(&[0.9], 0.0), row(&[0.5], 1.0)];
        let mut weighted = once.to_vec();
        weighted[0].weight = 2.0;
        let copied = [once[0].clone(), once[0].clone(), once[1].clone(), once[2].clone()];
        let (a, b) = (Logistic::fit(&weighted, 0.5), Logistic::fit(&copied, 0.5));
        assert!((a.bias - b.bias).abs() < 1e-9 && (a.weights[0] - b.weights[0]).abs() < 1e-9);
    }

    #[test]
    fn separable_rows_and_constant_columns_stay_finite() {
        let rows = [row(&[0.0, 1.0], 0.0), row(&[1.0, 1.0], 1.0), row(&[2.0, 1.0], 1.0)];
        let model = Logistic::fit(&rows, 1.0);
        assert!(model.weights.iter().chain([&model.bias]).all(|w| w.is_finite()));
        assert!(model.probability(&[2.0, 1.0]) > model.probability(&[0.0, 1.0]));
        let empty = Logistic::fit(&[], 1.0);
        assert_eq!(empty.probability(&[]), 0.5);
    }

    #[test]
    fn agrees_with_scikit_learn() {
        // scikit-learn 1.9.1, LogisticRegression(C=2.0, tol=1e-12, solver="newton-cholesky") on
        // x1 = (7i mod 11)/11, x2 = (5i mod 13)/13, y = [x1 + x2 + (3i mod 7)/7 > 1.4], i < 40.
        let rows: Vec<Row> = (0_u32..40)
            .map(|i| {
                let x1 = f64::from(7 * i % 11) / 11.0;
                let x2 = f64::from(5 * i % 13) / 13.0;
                let noise = f64::from(3 * i % 7) / 7.0;
                row(&[x1, x2], f64::from(x1 + x2 + noise > 1.4))
            })
            .collect();
        assert_eq!(rows.iter().filter(|r| r.target == 1.0).count(), 18);
        let model = Logistic::fit(&rows, 0.5);
        assert!((model.bias + 2.260_662_389_600_251).abs() < 1e-6, "{}", model.bias);
        assert!((model.weights[0] - 2.306_881_74).abs() < 1e-6, "{}", model.weights[0]);
        assert!((model.weights[1] - 2.116_806_11).abs() < 1e-6, "{}", model.weights[1]);
    }
}
