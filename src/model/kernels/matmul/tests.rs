use super::super::activations::quantise_row;
use super::super::format::tests::{ALL, file_bytes};
use super::super::format::{Format, pack};
use super::*;

fn rows_of(rows: usize, width: usize, seed: usize) -> Vec<f32> {
    (0..rows * width)
        .map(|i| {
            let x = ((i * 7919 + seed * 104_729) % 4001) as f32 / 2000.0 - 1.0;
            // A few channels are far larger than the others, as in a real model.
            if i % 97 == 5 { 30.0 * x } else { x }
        })
        .collect()
}

fn quantised(x: &[f32], width: usize) -> Activations {
    let mut out = Activations::default();
    out.resize(x.len() / width, width);
    for (x, mut row) in x.chunks_exact(width).zip(out.rows_mut()) {
        quantise_row(x, &mut row);
    }
    out
}

/// The scale of the `at`th code.
fn scale(x: &Activations, at: usize) -> f32 {
    x.scales[at / x.width * x.groups() + at % x.width / GROUP_INPUTS]
}

struct Matrix {
    format: Format,
    rows: usize,
    width: usize,
    bytes: Vec<u8>,
}

impl Matrix {
    fn new(format: Format, rows: usize, width: usize, seed: u32) -> Self {
        let mut bytes = Vec::new();
        pack(format, rows, width, &file_bytes(format, rows, width, seed), &mut bytes).unwrap();
        Self { format, rows, width, bytes }
    }

    fn packed(&self) -> Packed<'_> {
        Packed::new(self.format, self.rows, self.width, &self.bytes).unwrap()
    }

    fn widened(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.width];
        for (row, out) in out.chunks_exact_mut(self.width).enumerate() {
            self.packed().row(row, out);
        }
        out
    }
}

/// `x · Wᵀ` in double precision over the quantised inputs: what no kernel may differ from.
fn exact(x: &Activations, weights: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut sums, mut sizes) = (Vec::new(), Vec::new());
    for row in 0..x.rows {
        for w in weights.chunks_exact(x.width) {
            let terms = w.iter().enumerate().map(|(i, w)| {
                let at = row * x.width + i;
                f64::from(*w) * f64::from(x.codes[at]) * f64::from(scale(x, at))
            });
            let (sum, size) = terms.fold((0.0, 0.0), |(a, b), t| (a + t, b + t.abs()));
            sums.push(sum);
            sizes.push(size);
        }
    }
    (sums, sizes)
}

fn shapes(format: Format) -> Vec<(usize, usize, usize)> {
    let unit = format.inputs();
    if cfg!(miri) {
        return vec![(2, 17, unit)];
    }
    // Rows of input, outputs, inputs: odd counts, panels not filled, several stretches.
    vec![
        (1, 1, unit),
        (3, 17, unit * 3),
        (2, 48, 512 + unit),
        (9, 40, unit * 5),
        (67, 33, 1536),
        (130, 16, unit),
    ]
}

#[test]
fn every_format_and_kernel_gives_the_exact_product() {
    for format in ALL {
        for (seed, (rows, outputs, width)) in shapes(format).into_iter().enumerate() {
            let matrix = Matrix::new(format, outputs, width, seed as u32 + 1);
            let x = quantised(&rows_of(rows, width, seed), width);
            let (wanted, sizes) = exact(&x, &matrix.widened());
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; rows * outputs];
                let sink = Sink::Store { out: &mut out, bias: None };
                multiply_on(Pool::own(), *isa, &[matrix.packed()], &x, sink);
                for ((got, wanted), size) in out.iter().zip(&wanted).zip(&sizes) {
                    let error = (f64::from(*got) - wanted).abs();
                    // Offsets cancel large sums: the error is relative to the terms' size.
                    let bound = 1e-5 * size + 1e-4;
                    assert!(
                        error <= bound,
                        "{format:?} {isa:?} {rows}×{outputs}×{width}: {got} {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_widen_to_what_the_format_defines() {
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    for (format, dtype) in [
        (Format::Q4_0, GgmlDType::Q4_0),
        (Format::Q5_0, GgmlDType::Q5_0),
        (Format::Q8_0, GgmlDType::Q8_0),
        (Format::Q4K, GgmlDType::Q4K),
        (Format::Q6K, GgmlDType::Q6K),
    ] {
        let (rows, width) = (19, 512);
        let file = file_bytes(format, rows, width, 77);
        let matrix = Matrix::new(format, rows, width, 77);
        let device = candle_core::Device::Cpu;
        let storage = QStorage::from_data(file.into(), &device, dtype).unwrap();
        let reference = QTensor::new(storage, (rows, width)).unwrap();
        let reference = reference.dequantize(&device).unwrap().flatten_all().unwrap();
        for (ours, theirs) in matrix.widened().iter().zip(reference.to_vec1::<f32>().unwrap()) {
            // One rounding in place of two.
            assert!(
                (ours - theirs).abs() <= theirs.abs() * 1e-5 + 1e-6,
                "{format:?}: {ours} {theirs}"
            );
        }
    }
}

#[test]
fn stacked_matrices_biases_and_residuals() {
    let width = 256;
    let parts = [
        Matrix::new(Format::Q5_0, 48, width, 1),
        Matrix::new(Format::Q8_0, 16, width, 2),
        Matrix::new(Format::Q4K, 40, width, 3),
    ];
    let x = quantised(&rows_of(5, width, 1), width);
    let bias: Vec<f32> = (0..104).map(|i| i as f32).collect();
    let weights: Vec<Packed<'_>> = parts.iter().map(Matrix::packed).collect();
    let mut stacked = vec![1.0; 5 * 104];
    multiply(&weights, &x, Sink::Add { out: &mut stacked, bias: Some(&bias) });
    let mut column = 0;
    for part in &parts {
        let mut alone = vec![0.0; 5 * part.rows];
        multiply(&[part.packed()], &x, Sink::Store { out: &mut alone, bias: None });
        for (row, alone) in alone.chunks_exact(part.rows).enumerate() {
            for (i, alone) in alone.iter().enumerate() {
                let wanted = 1.0 + (alone + bias[column + i]);
                assert!((stacked[row * 104 + column + i] - wanted).abs() < 1e-4);
            }
        }
        column += part.rows;
    }
}

#[test]
fn activations_of_the_next_product_are_made_on_the_way() {
    // A whole group and a shorter one.
    let (width, inner, rows) = (64, 160, 3);
    let (gate, up) =
        (Matrix::new(Format::Q4_0, inner, width, 1), Matrix::new(Format::Q5_0, inner, width, 2));
    let x = quantised(&rows_of(rows, width, 3), width);
    let plain = |m: &Matrix| {
        let mut out = vec![0.0; rows * inner];
        multiply(&[m.packed()], &x, Sink::Store { out: &mut out, bias: None });
        out
    };
    let (g, u) = (plain(&gate), plain(&up));
    let bias = vec![0.25; inner];
    let read = |a: &Activations| -> Vec<f32> {
        a.codes.iter().enumerate().map(|(i, c)| f32::from(*c) * scale(a, i)).collect()
    };
    let mut out = Activations::default();
    multiply(&[gate.packed(), up.packed()], &x, Sink::SwiGlu { out: &mut out });
    assert_eq!((out.rows, out.width), (rows, inner));
    for (i, got) in read(&out).iter().enumerate() {
        let wanted = g[i] / (1.0 + (-g[i]).exp()) * u[i];
        assert!((got - wanted).abs() <= 0.51 * scale(&out, i) + 1e-5, "{got} {wanted}");
    }
    multiply(&[gate.packed()], &x, Sink::Gelu { out: &mut out, bias: &bias });
    for (i, got) in read(&out).iter().enumerate() {
        let mut wanted = [g[i]];
        crate::model::kernels::float::gelu(&mut wanted, &[0.25]);
        let [wanted] = wanted;
        assert!((got - wanted).abs() <= 0.51 * scale(&out, i) + 1e-5, "{got} {wanted}");
    }
}
