use std::io::Cursor;

use candle_core::quantized::gguf_file::Content;
use proptest::prelude::*;

use super::*;
use crate::base::digest::sha256_hex;
use crate::model::gguf::GgufFile;
use crate::model::manifest::Manifest;
use crate::model::pull::installed_or_pull;

/// Tensor data in a container begin at multiples of this.
const ALIGNMENT: usize = 64;

/// What a container holds, owned, so that tests can write one.
struct Parts {
    dims: Dims,
    specials: Specials,
    pieces: Vec<(String, f32)>,
    charmap: Vec<(u32, Vec<u32>)>,
    /// Bytes per slot, in the order of `slots`.
    data: Vec<Vec<u8>>,
}

impl Parts {
    fn small(seed: u8) -> Self {
        let dims = Dims {
            hidden: 32,
            layers: 2,
            heads: 4,
            ffn: 64,
            vocab: 6,
            positions: 8,
            types: 2,
            eps: 1e-12,
        };
        let pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁退", "款"];
        let mut byte = seed;
        let mut data = Vec::new();
        for slot in slots(&dims) {
            let length = bytes_of(&slot);
            data.push(
                std::iter::repeat_with(|| {
                    byte = byte.wrapping_mul(29).wrapping_add(71);
                    byte
                })
                .take(length)
                .collect(),
            );
        }
        Self {
            dims,
            specials: Specials { bos: 0, eos: 2, pad: 1, unk: 3 },
            pieces: pieces.iter().zip(0_u8..).map(|(p, i)| ((*p).into(), -f32::from(i))).collect(),
            charmap: vec![(9, vec![32]), (0x8F, vec![]), (0xBD, vec![49, 8260, 50])],
            data,
        }
    }

    fn write(&self) -> Vec<u8> {
        let d = &self.dims;
        let mut out = b"E5S1".to_vec();
        out.extend(1_u32.to_le_bytes());
        let sizes = [d.hidden, d.layers, d.heads, d.ffn, d.vocab, d.positions, d.types];
        out.extend(sizes.iter().flat_map(|n| (*n as u32).to_le_bytes()));
        out.extend(d.eps.to_le_bytes());
        out.extend((BLOCK as u32).to_le_bytes());
        let Specials { bos, eos, pad, unk } = self.specials;
        let counts = [self.pieces.len() as u32, bos, eos, pad, unk];
        out.extend(counts.iter().flat_map(|n| n.to_le_bytes()));
        let blob: String = self.pieces.iter().map(|(piece, _)| piece.as_str()).collect();
        out.extend((blob.len() as u64).to_le_bytes());
        let mut offset = 0_u32;
        out.extend(offset.to_le_bytes());
        for (piece, _) in &self.pieces {
            offset += piece.len() as u32;
            out.extend(offset.to_le_bytes());
        }
        out.extend(self.pieces.iter().flat_map(|(_, score)| score.to_le_bytes()));
        out.extend(blob.as_bytes());
        let mut map = Vec::new();
        for (from, to) in &self.charmap {
            map.extend(from.to_le_bytes());
            map.push(to.len() as u8);
            map.extend(to.iter().flat_map(|c| c.to_le_bytes()));
        }
        out.extend((self.charmap.len() as u32).to_le_bytes());
        out.extend((map.len() as u32).to_le_bytes());
        out.extend(map);
        self.write_tensors(&mut out);
        out
    }

    fn write_tensors(&self, out: &mut Vec<u8>) {
        let slots = slots(&self.dims);
        let directory: usize = slots.iter().map(|s| 2 + s.source.len() + 21).sum();
        let mut at = (out.len() + 4 + directory).next_multiple_of(ALIGNMENT);
        out.extend((slots.len() as u32).to_le_bytes());
        let mut places = Vec::new();
        for (slot, data) in slots.iter().zip(&self.data) {
            let elements: usize = slot.shape.iter().product();
            out.extend((slot.source.len() as u16).to_le_bytes());
            out.extend(slot.source.as_bytes());
            out.push(u8::from(slot.storage == Storage::Q4_0));
            out.extend((elements as u32).to_le_bytes());
            out.extend((at as u64).to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            places.push(at);
            at = (at + data.len()).next_multiple_of(ALIGNMENT);
        }
        for (place, data) in places.iter().zip(&self.data) {
            out.resize(*place, 0);
            out.extend(data);
        }
    }
}

fn bytes_of(slot: &Slot) -> usize {
    let elements: usize = slot.shape.iter().product();
    match slot.storage {
        Storage::F32 => elements * 4,
        Storage::Q4_0 => elements / BLOCK * BLOCK_BYTES,
    }
}

fn reason(bytes: &[u8]) -> String {
    Container::parse(bytes).unwrap_err().to_string()
}

#[test]
fn every_byte_of_every_tensor_moves_over_unchanged() {
    let parts = Parts::small(1);
    let bytes = parts.write();
    let container = Container::parse(&bytes).unwrap();
    let mut gguf = Cursor::new(Vec::new());
    container.write_gguf(&mut gguf).unwrap();
    let mut again = Cursor::new(Vec::new());
    container.write_gguf(&mut again).unwrap();
    assert_eq!(gguf.get_ref(), again.get_ref(), "conversion is repeatable");

    gguf.set_position(0);
    let content = Content::read(&mut gguf).unwrap();
    for (slot, data) in slots(&parts.dims).iter().zip(&parts.data) {
        let tensor = content.tensor(&mut gguf, &slot.target, &Device::Cpu).unwrap();
        assert_eq!(tensor.shape().dims(), slot.shape, "{}", slot.target);
        assert_eq!(&*tensor.data().unwrap(), data, "{}", slot.target);
    }
    assert_eq!(content.tensor_infos.len(), parts.data.len());
    let tokens = content.metadata["tokenizer.ggml.tokens"].to_vec().unwrap();
    assert_eq!(tokens[4].to_string().unwrap(), "▁退");
}

#[test]
fn mistakes_are_named() {
    let good = Parts::small(1).write();
    assert!(reason(b"GGUF").contains("E5S1"));
    assert!(reason(&good[..good.len() - 1]).contains("outside the file"));
    let mut version = good.clone();
    version[4] = 9;
    assert!(reason(&version).contains("version 9"));
    let mut specials = Parts::small(1);
    specials.specials.unk = 6;
    assert!(reason(&specials.write()).contains("special id"));
    let mut order = Parts::small(1);
    order.charmap.swap(0, 1);
    assert!(reason(&order.write()).contains("out of order"));
    let mut surrogate = Parts::small(1);
    surrogate.charmap[2].1[0] = 0xD800;
    assert!(reason(&surrogate.write()).contains("no character"));
    let mut heads = Parts::small(1);
    heads.dims.heads = 5;
    assert!(reason(&heads.write()).contains("do not fit"));
    let mut score = Parts::small(1);
    score.pieces[4].1 = f32::NAN;
    assert!(reason(&score.write()).contains("piece 4"));
}

#[test]
fn a_missing_tensor_is_named() {
    let bytes = Parts::small(1).write();
    let at = bytes.windows(6).position(|w| w == b"l1.q.w").unwrap();
    let mut renamed = bytes.clone();
    renamed[at] = b'x';
    assert!(reason(&renamed).contains("`l1.q.w` is missing"));
}

/// The installed GGUF holds everything that the published container holds, bit for bit: written
/// back into a container, it has the digest that the manifest pins for the container.
#[test]
fn the_real_weights_lost_nothing() {
    let path = installed_or_pull("e5-small");
    let mut gguf = GgufFile::open(&path).unwrap();
    let number = |key: &str| gguf.count(key).unwrap();
    let id = |key: &str| number(key) as u32;
    let dims = Dims {
        hidden: number("bert.embedding_length"),
        layers: number("bert.block_count"),
        heads: number("bert.attention.head_count"),
        ffn: number("bert.feed_forward_length"),
        vocab: gguf.shape("token_embd.weight").unwrap()[0],
        positions: number("bert.context_length"),
        types: number("tokenizer.ggml.token_type_count"),
        eps: gguf.float("bert.attention.layer_norm_epsilon").unwrap(),
    };
    let specials = Specials {
        bos: id("tokenizer.ggml.bos_token_id"),
        eos: id("tokenizer.ggml.eos_token_id"),
        pad: id("tokenizer.ggml.padding_token_id"),
        unk: id("tokenizer.ggml.unknown_token_id"),
    };
    let texts = gguf.array("tokenizer.ggml.tokens", "", |v| v.to_string().cloned()).unwrap();
    let scores = gguf.array("tokenizer.ggml.scores", "", Value::to_f32).unwrap();
    let mut targets = gguf.array(CHARMAP_TARGET, "", Value::to_u32).unwrap().into_iter();
    let lengths = gguf.array(CHARMAP_LENGTH, "", Value::to_u32).unwrap();
    let sources = gguf.array(CHARMAP_SOURCE, "", Value::to_u32).unwrap();
    let mapping = |(from, n): (u32, u32)| (from, targets.by_ref().take(n as usize).collect());
    let charmap = sources.into_iter().zip(lengths).map(mapping).collect();
    let data = slots(&dims)
        .iter()
        .map(|s| gguf.tensor(&s.target, &s.shape).unwrap().data().unwrap().into_owned())
        .collect();
    let pieces = texts.into_iter().zip(scores).collect();
    let container = Parts { dims, specials, pieces, charmap, data }.write();
    let manifest = Manifest::builtin();
    let pinned = manifest.get("e5-small").unwrap().convert.as_ref().unwrap();
    assert_eq!(container.len() as u64, pinned.size);
    assert_eq!(sha256_hex(&container), pinned.sha256);
}

proptest! {
    #[test]
    fn a_truncated_container_is_an_error(seed: u8, cut in 0.0..1.0_f64) {
        let bytes = Parts::small(seed).write();
        let end = (bytes.len() as f64 * cut) as usize;
        prop_assert!(Container::parse(&bytes[..end]).is_err());
    }

    #[test]
    fn a_mangled_container_never_panics(
        seed: u8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = Parts::small(seed).write();
        // The first kilobyte holds the header, the pieces, the map and much of the directory.
        for (at, byte) in changes {
            bytes[at.index(1024)] = byte;
        }
        if let Ok(container) = Container::parse(&bytes) {
            container.write_gguf(&mut Cursor::new(Vec::new())).unwrap();
        }
    }

    #[test]
    fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"E5S1\x01\0\0\0".to_vec();
        bytes.extend(noise);
        prop_assert!(Container::parse(&bytes).is_err());
    }
}
