//! From logits to the next token: greedy or nucleus sampling, repeatable from a seed.

use crate::base::random::SplitMix64;
use crate::model::Sampling;
use crate::model::kernels::Isa;

/// A chosen token with its log-probability under the model itself, before temperature and cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    pub token: u32,
    pub logprob: f32,
}

/// Chooses token after token; the same seed and logits give the same choices.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Self {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::TopP { seed, .. } => seed,
        };
        Self { sampling, random: SplitMix64::new(seed) }
    }

    /// Whether it takes the token of the largest logit, whatever the others are.
    pub fn takes_the_best(&self) -> bool {
        match self.sampling {
            Sampling::Greedy => true,
            // At temperature zero the distribution is its mode.
            Sampling::TopP { temperature, .. } => temperature <= 0.0,
        }
    }

    /// `None` where there is no choice: for no logits, and for logits that are not finite.
    pub fn sample(&mut self, logits: &[f32]) -> Option<Sampled> {
        let token = self.pick(logits)?;
        let sampled = Sampled { token: token as u32, logprob: logits[token] - log_sum_exp(logits) };
        sampled.logprob.is_finite().then_some(sampled)
    }

    /// Chooses among `allowed` only, as if the model had given no probability to the others. The
    /// log-probability told is still the model's own over all tokens, so that what a constraint
    /// forced upon it shows; the second one is that among the allowed. `None` as above.
    pub fn sample_among(&mut self, logits: &[f32], allowed: &[u32]) -> Option<(Sampled, f32)> {
        let own: Vec<f32> = allowed.iter().map(|token| logits[*token as usize]).collect();
        let at = self.pick(&own)?;
        let sampled = Sampled { token: allowed[at], logprob: own[at] - log_sum_exp(logits) };
        sampled.logprob.is_finite().then(|| (sampled, own[at] - log_sum_exp(&own)))
    }

    fn pick(&mut self, logits: &[f32]) -> Option<usize> {
        match self.sampling {
            Sampling::TopP { temperature, top_p, .. } if temperature > 0.0 => {
                nucleus(logits, temperature, top_p, self.random.unit())
            }
            Sampling::Greedy | Sampling::TopP { .. } => argmax(logits),
        }
    }
}

/// `ln Σ exp(x)`, summed from the largest so that nothing overflows.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    Isa::detected().log_sum_exp(logits)
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> Option<usize> {
    let largest = Isa::detected().largest(logits);
    logits.iter().position(|x| *x == largest)
}

/// The token at quantile `u` of the smallest set of likeliest tokens that holds `top_p`
/// (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", §3.1).
fn nucleus(logits: &[f32], temperature: f32, top_p: f32, u: f32) -> Option<usize> {
    let top = logits[argmax(logits)?];
    let weights: Vec<f32> = logits.iter().map(|x| ((x - top) / temperature).exp()).collect();
    let total: f32 = weights.iter().sum();
    // A token below this share can be in no such set of n tokens, so most need not be sorted.
    let floor = total * (1.0 - top_p) / logits.len() as f32;
    let mut likely: Vec<usize> = (0..logits.len()).filter(|&i| weights[i] >= floor).collect();
    likely.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    let mut mass = 0.0;
    let mut kept = 0;
    while kept < likely.len() && (kept == 0 || mass < top_p * total) {
        mass += weights[likely[kept]];
        kept += 1;
    }
    let mut left = u * mass;
    for &i in &likely[..kept] {
        left -= weights[i];
        if left < 0.0 {
            return Some(i);
        }
    }
    // Rounding can leave a crumb after the last one.
    likely[..kept].last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top_p(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling::TopP { temperature, top_p, seed })
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_tells_its_probability() {
        let got = Sampler::new(Sampling::Greedy).sample(&[0.0, 1.0, 1.0]).unwrap();
        assert_eq!(got.token, 1);
        let e = 1.0_f32.exp();
        assert!((got.logprob - (e / (1.0 + 2.0 * e)).ln()).abs() < 1e-6);
        assert_eq!(Sampler::new(Sampling::Greedy).sample(&[]), None);
    }

    #[test]
    fn among_the_allowed_the_others_have_no_share() {
        let logits = [9.0, 1.0, 2.0, 1.5];
        let (sampled, share) =
            Sampler::new(Sampling::Greedy).sample_among(&logits, &[1, 3]).unwrap();
        assert_eq!(sampled.token, 3);
        assert!((sampled.logprob - (1.5 - log_sum_exp(&logits))).abs() < 1e-6);
        assert!((share - (1.5 - log_sum_exp(&[1.0, 1.5]))).abs() < 1e-6);
        let mut nucleus = top_p(1.0, 0.9, 5);
        assert!((0..50).all(|_| nucleus.sample_among(&logits, &[1, 3]).unwrap().0.token != 0));
        assert_eq!(Sampler::new(Sampling::Greedy).sample_among(&logits, &[]), None);
    }

    #[test]
    fn frequencies_follow_the_probabilities_inside_the_nucleus() {
        // .5, .3, .2: a nucleus of .7 holds the first two, at 5/8 and 3/8.
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let mut sampler = top_p(1.0, 0.7, 7);
        let mut counts = [0_u32; 3];
        for _ in 0..4000 {
            counts[sampler.sample(&logits).unwrap().token as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        // Three standard deviations of a binomial share at n = 4000.
        assert!((f64::from(counts[0]) / 4000.0 - 0.625).abs() < 0.023, "{counts:?}");
    }

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.1).collect();
        let run = |seed| {
            let mut sampler = top_p(1.0, 1.0, seed);
            (0..20).map(|_| sampler.sample(&logits).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_edges_of_temperature_and_nucleus_are_greedy() {
        let logits = [0.1, 3.0, 2.9];
        assert_eq!(top_p(0.0, 1.0, 3).sample(&logits).unwrap().token, 1);
        assert_eq!(top_p(1.0, 0.0, 3).sample(&logits).unwrap().token, 1);
    }

    #[test]
    fn nothing_is_chosen_among_what_is_not_finite() {
        for poison in [f32::NAN, f32::INFINITY] {
            // Beside another, before and behind whole vectors, and alone.
            for (count, at) in [(2, 0), (40, 7), (40, 39), (1, 0)] {
                let mut logits = vec![1.0; count];
                logits[at] = poison;
                assert_eq!(Sampler::new(Sampling::Greedy).sample(&logits), None);
                assert_eq!(top_p(1.0, 0.9, 3).sample(&logits), None);
                let among = Sampler::new(Sampling::Greedy).sample_among(&logits, &[0]);
                assert_eq!(among, None, "{poison} at {at} of {count}");
            }
            assert_eq!(top_p(1.0, 0.9, 3).sample(&[poison; 20]), None);
        }
    }

    #[test]
    fn log_sum_exp_survives_large_logits() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2.0_f32.ln())).abs() < 1e-3);
    }
}
