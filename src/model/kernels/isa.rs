//! Which instructions this machine has, found out once, and the float functions compiled for each.

use std::sync::OnceLock;

use super::activations::{ActivationRow, quantise_row};
use super::dense;
use super::float;

/// An instruction set. A value of it exists only where the machine has the instructions, which all
/// that calls them relies on: only [`Isa::present`] makes what the variants hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(HasAvx512Vnni),
}

/// AVX2, FMA and F16C were detected.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HasAvx2(());

/// The same with AVX-512 F, BW and VNNI.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HasAvx512Vnni(());

/// `HUIDA_KERNELS` names something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HUIDA_KERNELS={0} is not available here: this machine offers {1}")]
pub struct UnknownKernels(String, String);

impl Isa {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) => "avx512vnni",
        }
    }

    /// What the machine offers, the fastest first. A vector kernel whose results differ from the
    /// scalar ones on this machine is left out: slow is better than wrong.
    pub(crate) fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut found = Self::present();
            found.retain(|isa| super::matmul::agrees_with_scalar(*isa));
            found
        })
    }

    fn present() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self::Avx512Vnni(HasAvx512Vnni(())));
            }
            if avx2 {
                found.push(Self::Avx2(HasAvx2(())));
            }
        }
        found.push(Self::Scalar);
        found
    }

    /// The instruction set in use: the fastest, or the one that `HUIDA_KERNELS` names.
    pub(crate) fn detected() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::wished().unwrap_or(Self::available()[0]))
    }

    /// The one of `HUIDA_KERNELS`, or the fastest.
    fn wished() -> Result<Self, UnknownKernels> {
        let available = Self::available();
        match std::env::var("HUIDA_KERNELS") {
            Ok(name) if !name.is_empty() => {
                available.iter().find(|isa| isa.name() == name).copied().ok_or_else(|| {
                    let offers: Vec<_> = available.iter().map(|isa| isa.name()).collect();
                    UnknownKernels(name, offers.join(", "))
                })
            }
            Ok(_) | Err(_) => Ok(available[0]),
        }
    }
}

/// Name of the instruction set in use; asked before models are opened, so that a wish that cannot be
/// granted is an error and not a surprise.
///
/// # Errors
/// When `HUIDA_KERNELS` names what this machine does not offer.
pub fn kernels_in_use() -> Result<&'static str, UnknownKernels> {
    Isa::wished().map(Isa::name)
}

/// Compiles a function of [`float`] once per instruction set and picks at run time.
macro_rules! per_instruction_set {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? = $body:path;
    )*) => {
        impl Isa {$(
            $(#[$doc])*
            #[inline]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $out)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $body($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $body($($arg),*)
                }
                match self {
                    Self::Scalar => $body($($arg),*),
                    // SAFETY: a value of `Isa` exists only where the machine has the instructions.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx2(_) => unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx512Vnni(_) => unsafe { avx512($($arg),*) },
                }
            }
        )*}
    };
}

per_instruction_set! {
    /// Quantises whole blocks of one row.
    fn quantise(x: &[f32], row: &mut ActivationRow<'_>) = quantise_row;
    /// Adds the products of a stretch of a matrix of floats; see [`dense::add_products`].
    fn add_products(work: dense::Products<'_>) = dense::add_products;
    /// `x = gelu(x + bias)`.
    fn gelu(x: &mut [f32], bias: &[f32]) = float::gelu;
    /// `gate = silu(gate) · x`.
    fn swiglu(gate: &mut [f32], x: &[f32]) = float::swiglu;
    /// Root-mean-square norm of `x` into `out`.
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = float::rms_norm;
    /// Layer norm in place.
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = float::layer_norm;
    /// Rotates the halves of each head of `x` by one position's angles.
    fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) = float::rotate;
    /// One block of queries against all keys; see [`float::attend`].
    fn attend(work: float::Attention<'_>) = float::attend;
    /// The largest value; −∞ of none.
    fn largest(x: &[f32]) -> f32 = float::largest;
    /// `ln Σ exp x`.
    fn log_sum_exp(x: &[f32]) -> f32 = float::log_sum_exp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_this_machine_passes_its_own_check() {
        assert_eq!(Isa::available(), Isa::present());
        assert!(Isa::available().contains(&Isa::detected()));
    }
}
