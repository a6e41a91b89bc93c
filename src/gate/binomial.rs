//! Exact binomial tails: what a count of errors says about the rate behind it.

/// P(X ≤ `k`) for X ~ Binomial(`n`, `p`), summed in logarithms so that large `n` does not underflow.
pub fn cdf(k: usize, n: usize, p: f64) -> f64 {
    if k >= n || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let n_f = n as f64;
    let odds = (p / (1.0 - p)).ln();
    let mut ln_pmf = n_f * (-p).ln_1p();
    let mut ln_sum = ln_pmf;
    for i in 0..k {
        let i = i as f64;
        ln_pmf += ((n_f - i) / (i + 1.0)).ln() + odds;
        ln_sum = ln_add(ln_sum, ln_pmf);
    }
    ln_sum.exp().min(1.0)
}

/// P(X ≥ `k`) for X ~ Binomial(`n`, `p`).
pub fn upper_tail(k: usize, n: usize, p: f64) -> f64 {
    // P(X ≥ k) = P(n − X ≤ n − k), and n − X counts the other outcome: no cancellation near 0.
    if k == 0 { 1.0 } else { cdf(n.saturating_sub(k), n, 1.0 - p) }
}

/// The fewest trials that show a rate ≤ `rate` at `level` although `errors` of them went wrong:
/// P(X ≤ errors) ≤ level. `None` unless both are strictly between 0 and 1.
pub fn trials_needed(errors: usize, rate: f64, level: f64) -> Option<usize> {
    if !(rate > 0.0 && rate < 1.0 && level > 0.0 && level < 1.0) {
        return None;
    }
    let (mut low, mut high) = (errors, errors + 1);
    while cdf(errors, high, rate) > level {
        (low, high) = (high, high.checked_mul(2)?);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if cdf(errors, middle, rate) > level { low = middle } else { high = middle }
    }
    Some(high)
}

/// ln(eᵃ + eᵇ).
fn ln_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn small_cases_by_hand() {
        close(cdf(0, 2, 0.5), 0.25);
        close(cdf(1, 2, 0.5), 0.75);
        close(cdf(2, 2, 0.5), 1.0);
        close(upper_tail(1, 2, 0.5), 0.75);
        close(upper_tail(0, 2, 0.5), 1.0);
        // 0.9³ and 3·0.1·0.9².
        close(cdf(1, 3, 0.1), 0.729 + 0.243);
    }

    #[test]
    fn edges() {
        close(cdf(0, 0, 0.3), 1.0);
        close(cdf(0, 5, 1.0), 0.0);
        close(cdf(0, 5, 0.0), 1.0);
        close(upper_tail(5, 5, 0.0), 0.0);
    }

    #[test]
    fn both_tails_add_up_and_large_counts_do_not_underflow() {
        for k in [1, 7, 30, 90] {
            let whole = cdf(k - 1, 100, 0.3) + upper_tail(k, 100, 0.3);
            assert!((whole - 1.0).abs() < 1e-10, "{whole}");
        }
        // The median of a binomial lies within one of its mean.
        let half = cdf(3000, 100_000, 0.03);
        assert!((0.49..0.52).contains(&half), "{half}");
    }

    #[test]
    fn trials_needed_is_the_first_number_that_suffices() {
        // The rule of three: about 3/rate trials at 95 % when nothing went wrong.
        assert_eq!(trials_needed(0, 0.03, 0.05), Some(99));
        assert_eq!(trials_needed(0, 0.05, 0.05), Some(59));
        let n = trials_needed(1, 0.03, 0.05).expect("both inside 0..1");
        assert!(cdf(1, n, 0.03) <= 0.05 && cdf(1, n - 1, 0.03) > 0.05);
        assert_eq!(trials_needed(0, 0.0, 0.05), None);
        assert_eq!(trials_needed(0, 0.05, 1.0), None);
    }
}
