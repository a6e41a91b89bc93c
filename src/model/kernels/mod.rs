//! Our own kernels: integer products of quantised matrices with quantised rows, and the float
//! functions between them. The only place of the models with `unsafe` code.
//!
//! A matrix is packed once ([`format`]); a pass quantises its rows ([`activations`]), multiplies
//! them panel by panel ([`matmul`], with one file per instruction set) on the threads of [`pool`].
#![expect(unsafe_code, reason = "vector instructions and sharing between threads are in here")]

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod float;
mod format;
mod isa;
mod mapped;
mod matmul;
mod pool;
mod scalar;
mod shared;
mod tile;

pub(crate) use activations::Activations;
pub(crate) use dense::{Dense, Precision, Weights, pack_floats};
pub(crate) use float::{Attention, PAGE, Page};
pub use format::Format;
pub(crate) use format::{LAYOUT, PANEL, Packed, made_up, pack};
pub(crate) use isa::Isa;
pub use isa::{UnknownKernels, kernels_in_use};
pub(crate) use mapped::Mapped;
pub(crate) use matmul::{Sink, multiply, multiply_panels};
pub(crate) use pool::{ShortPass, over_parts, over_rows, step_back};
