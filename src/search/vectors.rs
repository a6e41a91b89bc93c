//! Our own checked file of float rows: whatever is not exactly what was written is refused.
//!
//! Body of the file, in the envelope of `frame.rs`, little-endian: dimension u32, count u64, then
//! `count × dimension` f32.

use std::fs;
use std::path::Path;

use crate::base::file::write_atomic;
use crate::search::SearchError;
use crate::search::frame::{self, Frame};

const FRAME: Frame = Frame { magic: *b"HUIDAVEC", version: 1, what: "vector file" };

/// Rows of equal width, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    dim: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// A matrix of `rows`, each `dim` wide and finite.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] names the first row that does not fit.
    pub fn from_rows<'a>(
        dim: usize,
        rows: impl IntoIterator<Item = &'a [f32]>,
    ) -> Result<Self, SearchError> {
        if dim == 0 {
            return Err(SearchError::BadInput("a matrix needs a width".into()));
        }
        let rows = rows.into_iter();
        let mut data = Vec::with_capacity(dim * rows.size_hint().0);
        for (at, row) in rows.enumerate() {
            if row.len() != dim {
                let width = row.len();
                return Err(SearchError::BadInput(format!("row {at} is {width} wide, not {dim}")));
            }
            if !row.iter().all(|x| x.is_finite()) {
                return Err(SearchError::BadInput(format!(
                    "row {at} holds a number that is not finite"
                )));
            }
            data.extend_from_slice(row);
        }
        Ok(Self { dim, data })
    }

    /// To be filled by way of [`Matrix::rows_mut`].
    ///
    /// # Panics
    /// For a width of nothing.
    pub(super) fn zeros(dim: usize, rows: usize) -> Self {
        assert!(dim > 0, "a matrix needs a width");
        Self { dim, data: vec![0.0; dim * rows] }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dim).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// # Panics
    /// When there is no such row, as indexing a slice does.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.dim..(at + 1) * self.dim]
    }

    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        // A default matrix has no width, and chunks of nothing are not allowed.
        self.data.chunks_exact(self.dim.max(1))
    }

    pub(super) fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.dim.max(1))
    }

    /// Writes the file so that a reader sees all of it or none.
    pub fn write(&self, path: &Path) -> Result<(), SearchError> {
        write_atomic(path, &self.encode()?).map_err(SearchError::io(path))
    }

    /// Reads a file written by [`Matrix::write`].
    ///
    /// # Errors
    /// [`SearchError::Incompatible`] for another format version, [`SearchError::Corrupt`] for
    /// anything else that is not byte for byte what was written.
    pub fn read(path: &Path) -> Result<Self, SearchError> {
        let bytes = fs::read(path).map_err(SearchError::io(path))?;
        Self::decode(&bytes, path)
    }

    fn encode(&self) -> Result<Vec<u8>, SearchError> {
        let dim = u32::try_from(self.dim)
            .map_err(|_| SearchError::BadInput(format!("{} columns are too many", self.dim)))?;
        let mut body = Vec::with_capacity(12 + self.data.len() * 4);
        body.extend_from_slice(&dim.to_le_bytes());
        body.extend_from_slice(&(self.len() as u64).to_le_bytes());
        frame::put_floats(&mut body, &self.data);
        Ok(FRAME.seal(&body))
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, SearchError> {
        let body = FRAME.open(bytes, path)?;
        Self::decode_body(body).ok_or_else(|| SearchError::corrupt(path, "its sizes do not agree"))
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let (dim, rest) = body.split_first_chunk::<4>()?;
        let (count, payload) = rest.split_first_chunk::<8>()?;
        let (dim, count) = (u64::from(u32::from_le_bytes(*dim)), u64::from_le_bytes(*count));
        let size = dim.checked_mul(4)?.checked_mul(count)?;
        if dim == 0 || size != payload.len() as u64 {
            return None;
        }
        Some(Self { dim: usize::try_from(dim).ok()?, data: frame::floats(payload)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::frame::HEADER;
    use proptest::prelude::*;

    fn sample() -> Matrix {
        let rows: [&[f32]; 3] = [&[1.0, 0.5], &[-0.25, 2.0], &[0.0, -1.0]];
        Matrix::from_rows(2, rows).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Matrix, SearchError> {
        Matrix::decode(bytes, Path::new("v.bin"))
    }

    #[test]
    fn survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.bin");
        sample().write(&path).unwrap();
        let back = Matrix::read(&path).unwrap();
        assert_eq!(back, sample());
        assert_eq!((back.len(), back.dim(), back.row(1)), (3, 2, &[-0.25, 2.0][..]));
    }

    #[test]
    fn an_empty_matrix_keeps_its_width() {
        let empty = Matrix::from_rows(384, []).unwrap();
        let back = decode(&empty.encode().unwrap()).unwrap();
        assert_eq!((back.len(), back.dim(), back.rows().count()), (0, 384, 0));
    }

    #[test]
    fn says_what_is_wrong() {
        let good = sample().encode().unwrap();
        let reason = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            decode(&bytes).unwrap_err().to_string()
        };
        assert_eq!(reason(&|b| b[0] = b'x'), "v.bin: not a vector file");
        assert_eq!(reason(&|b| b[8] = 9), "v.bin: vector file of another version than 1");
        assert_eq!(reason(&|b| b.truncate(20)), "v.bin: too short for a vector file");
        assert_eq!(reason(&|b| b.truncate(b.len() - 1)), "v.bin: its checksum does not match");
        assert_eq!(reason(&|b| b[HEADER + 12] ^= 1), "v.bin: its checksum does not match");
        // Two columns of three rows are as long as three columns of two rows.
        let exchanged = |b: &mut Vec<u8>| (b[HEADER], b[HEADER + 4]) = (3, 2);
        assert_eq!(reason(&exchanged), "v.bin: its checksum does not match");
    }

    #[test]
    fn a_true_checksum_does_not_excuse_wrong_sizes() {
        let body = FRAME.open(&sample().encode().unwrap(), Path::new("v.bin")).unwrap().to_vec();
        let reason = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut body = body.clone();
            change(&mut body);
            decode(&FRAME.seal(&body)).unwrap_err().to_string()
        };
        let expected = "v.bin: its sizes do not agree";
        assert_eq!(reason(&|b| b[0] = 0), expected);
        assert_eq!(reason(&|b| b[4] = 4), expected);
        assert_eq!(reason(&|b| b[11] = 0xFF), expected);
        assert_eq!(reason(&|b| b.truncate(7)), expected);
        assert_eq!(reason(&|b| b[12..16].copy_from_slice(&f32::NAN.to_le_bytes())), expected);
    }

    #[test]
    fn refuses_rows_that_do_not_fit() {
        let ragged: [&[f32]; 2] = [&[1.0, 2.0], &[1.0]];
        assert!(matches!(Matrix::from_rows(2, ragged), Err(SearchError::BadInput(_))));
        let infinite: [&[f32]; 1] = [&[1.0, f32::NAN]];
        assert!(matches!(Matrix::from_rows(2, infinite), Err(SearchError::BadInput(_))));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_load(
            changes in prop::collection::vec((0_usize..HEADER + 36, 1_u8..), 1..4),
            cut in 0_usize..4,
        ) {
            let good = sample().encode().unwrap();
            let mut bad = good.clone();
            for (at, flip) in changes {
                bad[at] ^= flip;
            }
            bad.truncate(good.len() - cut);
            prop_assume!(bad != good);
            prop_assert!(decode(&bad).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
