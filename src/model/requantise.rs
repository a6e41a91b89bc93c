//! Lossless re-expression of small GGUF block formats as Q8_0, which has a vector kernel.
//!
//! Q4_0, Q5_0 and Q8_0 all describe 32 weights as `w = d · q` with one f16 scale `d`; they differ
//! only in the width of the integer `q` (4, 5 and 8 bits, stored with an offset of 8 resp. 16).
//! Writing the same `d` with `q − 8` resp. `q − 16` as int8 therefore changes no weight, not in
//! one bit, and lets Q5_0 matrices (scalar in candle 0.11) run on the AVX2 dot product of Q8_0.
//! The price is memory: 8.5 bits a weight in place of 4.5 or 5.5.
//!
//! Layouts: `ggml-common.h` of llama.cpp, `block_q4_0`, `block_q5_0`, `block_q8_0`.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Result};

/// Weights of a block.
const BLOCK: usize = 32;
/// Bytes of the f16 scale that opens every block.
const SCALE: usize = 2;
/// Bytes of the high bits in a Q5_0 block.
const HIGH_BITS: usize = 4;

/// Appends one block of some format as a Q8_0 block.
type Unpack = fn(&[u8], &mut Vec<u8>);

/// Block bytes of `dtype` as Q8_0 block bytes; `None` for formats that Q8_0 cannot hold exactly.
fn blocks_as_q8_0(dtype: GgmlDType, data: &[u8]) -> Option<Vec<u8>> {
    let (block_bytes, unpack) = match dtype {
        GgmlDType::Q4_0 => (SCALE + BLOCK / 2, unpack_q4_0 as Unpack),
        GgmlDType::Q5_0 => (SCALE + HIGH_BITS + BLOCK / 2, unpack_q5_0 as Unpack),
        GgmlDType::F32
        | GgmlDType::F16
        | GgmlDType::BF16
        | GgmlDType::Q4_1
        | GgmlDType::Q5_1
        | GgmlDType::Q8_0
        | GgmlDType::Q8_1
        | GgmlDType::Q2K
        | GgmlDType::Q3K
        | GgmlDType::Q4K
        | GgmlDType::Q5K
        | GgmlDType::Q6K
        | GgmlDType::Q8K => return None,
    };
    let mut out = Vec::with_capacity(data.len() / block_bytes * (SCALE + BLOCK));
    for block in data.chunks_exact(block_bytes) {
        unpack(block, &mut out);
    }
    Some(out)
}

/// Byte `j` holds weight `j` in its low half and weight `j + 16` in its high half.
fn unpack_q4_0(block: &[u8], out: &mut Vec<u8>) {
    let (scale, nibbles) = block.split_at(SCALE);
    out.extend_from_slice(scale);
    out.extend(nibbles.iter().map(|b| (b & 0x0F).wrapping_sub(8)));
    out.extend(nibbles.iter().map(|b| (b >> 4).wrapping_sub(8)));
}

/// As Q4_0, with bit `j` of the little-endian word as the fifth bit of weight `j`.
fn unpack_q5_0(block: &[u8], out: &mut Vec<u8>) {
    let (scale, rest) = block.split_at(SCALE);
    let (high, nibbles) = rest.split_at(HIGH_BITS);
    let fifth = |j: usize| ((high[j / 8] >> (j % 8)) & 1) << 4;
    out.extend_from_slice(scale);
    out.extend(nibbles.iter().enumerate().map(|(j, b)| ((b & 0x0F) | fifth(j)).wrapping_sub(16)));
    let second = nibbles.iter().enumerate();
    out.extend(second.map(|(j, b)| ((b >> 4) | fifth(j + BLOCK / 2)).wrapping_sub(16)));
}

/// A matrix's blocks in the format in which it is multiplied: Q4_0 and Q5_0 as Q8_0, others as
/// they are stored.
pub(crate) fn fast_blocks(tensor: &QTensor) -> Result<(GgmlDType, Cow<'_, [u8]>)> {
    let data = tensor.data()?;
    Ok(match blocks_as_q8_0(tensor.dtype(), &data) {
        Some(blocks) => (GgmlDType::Q8_0, Cow::Owned(blocks)),
        None => (tensor.dtype(), data),
    })
}

/// One matrix of the rows of all `parts`, which share their width and block format.
pub(crate) fn stack_rows(
    dtype: GgmlDType,
    width: usize,
    parts: &[(usize, Cow<'_, [u8]>)],
    device: &Device,
) -> Result<QTensor> {
    let rows = parts.iter().map(|(rows, _)| rows).sum::<usize>();
    let blocks = parts.iter().map(|(_, blocks)| &**blocks).collect::<Vec<_>>().concat();
    QTensor::new(QStorage::from_data(Cow::Owned(blocks), device, dtype)?, (rows, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    fn bits(tensor: &QTensor) -> Vec<u32> {
        let dense = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        dense.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn q4_0_and_q5_0_keep_every_bit_of_every_weight() {
        // Values over several magnitudes, so that all codes and many scales occur.
        let values: Vec<f32> = (0..64 * 96)
            .map(|i| ((i * 7919 % 1013) as f32 - 506.0) * 1.07_f32.powi(i % 40))
            .collect();
        let dense = Tensor::from_vec(values, (64, 96), &Device::Cpu).unwrap();
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q5_0] {
            let stored = QTensor::quantize(&dense, dtype).unwrap();
            let (fast, blocks) = fast_blocks(&stored).unwrap();
            assert_eq!(fast, GgmlDType::Q8_0);
            let parts = [(64, blocks)];
            let again = stack_rows(fast, 96, &parts, &Device::Cpu).unwrap();
            // A zero may change its sign: q − 16 = 0 under a negative scale is −0 in both.
            assert_eq!(bits(&stored), bits(&again), "{dtype:?}");
        }
    }

    #[test]
    fn other_formats_are_left_alone() {
        let dense = Tensor::ones((2, 256), candle_core::DType::F32, &Device::Cpu).unwrap();
        for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
            let stored = QTensor::quantize(&dense, dtype).unwrap();
            let (kept, blocks) = fast_blocks(&stored).unwrap();
            assert_eq!(kept, dtype);
            assert_eq!(*blocks, *stored.data().unwrap());
        }
    }

    #[test]
    fn stacking_keeps_rows_in_order() {
        let quantise = |value: f32| {
            let dense = Tensor::full(value, (3, 32), &Device::Cpu).unwrap();
            QTensor::quantize(&dense, GgmlDType::Q8_0).unwrap()
        };
        let (a, b) = (quantise(1.0), quantise(-2.0));
        let parts = [(3, a.data().unwrap()), (3, b.data().unwrap())];
        let stacked = stack_rows(GgmlDType::Q8_0, 32, &parts, &Device::Cpu).unwrap();
        assert_eq!(stacked.shape().dims(), [6, 32]);
        assert_eq!(bits(&stacked), [bits(&a), bits(&b)].concat());
    }
}
