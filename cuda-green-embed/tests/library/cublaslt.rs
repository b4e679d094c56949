//! Products through cuBLASLt's interface, and the search for the library.

use std::path::Path;

use cuda_green::CaptureMode;
use cuda_green_embed::{CublasLt, Error, InferencePrecision, ProductShape};
use proptest::prelude::*;

use crate::gpu::{Gpu, Numbers, PRECISIONS, assert_close};

const WORKSPACE: usize = 4 << 20;

/// A product of random matrices, and what must come out.
struct Case {
    shape: ProductShape,
    a: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    expected: Vec<f64>,
}

impl Case {
    fn new(shape: ProductShape, seed: u64) -> Self {
        let ProductShape {
            rows,
            inputs,
            outputs,
            precision,
            ..
        } = shape;
        let mut numbers = Numbers(seed);
        let mut take = |count| numbers.take(count, precision);
        let (a, w) = (take(rows * inputs), take(outputs * inputs));
        let (bias, residual) = (take(outputs), take(rows * outputs));
        let mut expected = Vec::new();
        for row in 0..rows {
            for output in 0..outputs {
                let product =
                    |i| f64::from(a[row * inputs + i]) * f64::from(w[output * inputs + i]);
                let mut sum: f64 = (0..inputs).map(product).sum();
                if shape.with_bias {
                    sum += f64::from(bias[output]);
                }
                if shape.with_residual {
                    sum += f64::from(residual[row * outputs + output]);
                }
                expected.push(sum);
            }
        }
        Self {
            shape,
            a,
            w,
            bias,
            residual,
            expected,
        }
    }

    /// Computes it, in a captured graph if asked, with the residual in place of the result if asked.
    fn check(&self, gpu: &Gpu, captured: bool, in_place: bool, candidate: usize) {
        let precision = self.shape.precision;
        let cublaslt = CublasLt::load(&gpu.device).unwrap();
        let product = cublaslt.product(self.shape, WORKSPACE, Some(16)).unwrap();
        product.choose(candidate);
        let put = |values: &[f32]| gpu.put(precision, values);
        let (a, w, bias) = (put(&self.a), put(&self.w), put(&self.bias));
        let nothing = vec![f32::NAN; self.expected.len()];
        let out = put(if in_place { &self.residual } else { &nothing });
        let residual = put(&self.residual);
        let workspace = gpu.pool.allocate(WORKSPACE).unwrap();
        let residual_at = if in_place {
            out.address()
        } else {
            residual.address()
        };
        let launch = || {
            // SAFETY: the buffers have the shape's sizes, and live until the stream was waited for.
            unsafe {
                product.launch(
                    &gpu.stream,
                    a.address(),
                    w.address(),
                    bias.address(),
                    residual_at,
                    out.address(),
                    workspace.address(),
                )
            }
        };
        if captured {
            let graph = gpu.stream.capture(CaptureMode::default(), |_| {
                launch().unwrap();
                Ok(())
            });
            let exec = graph.unwrap().instantiate().unwrap();
            assert!(in_place || gpu.get(precision, &out).iter().all(|v| v.is_nan()));
            // SAFETY: as above.
            unsafe { exec.launch(&gpu.stream) }.unwrap();
        } else {
            launch().unwrap();
        }
        let got = gpu.get(precision, &out);
        assert_close(
            precision,
            &got,
            &self.expected,
            (self.shape.inputs as f64).sqrt(),
        );
    }
}

fn shapes() -> impl Strategy<Value = ProductShape> {
    let precision = prop::sample::select(PRECISIONS.to_vec());
    (
        1..70_usize,
        1..90_usize,
        1..70_usize,
        precision,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(rows, inputs, outputs, precision, with_bias, with_residual)| ProductShape {
                rows,
                inputs,
                outputs,
                precision,
                with_bias,
                with_residual,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_right(
        shape in shapes(), seed: u64, captured: bool, in_place: bool, candidate in 0..3_usize,
    ) {
        let gpu = Gpu::new();
        Case::new(shape, seed).check(&gpu, captured, in_place && shape.with_residual, candidate);
    }
}

/// Returns a product of 16 × 16 matrices in `f32`.
fn small() -> ProductShape {
    ProductShape {
        rows: 16,
        inputs: 16,
        outputs: 16,
        precision: InferencePrecision::FP32,
        with_bias: true,
        with_residual: false,
    }
}

#[test]
fn a_shape_that_cannot_be_is_refused_with_its_reason() {
    let gpu = Gpu::new();
    let cublaslt = CublasLt::load(&gpu.device).unwrap();
    let refused = |shape| cublaslt.product(shape, WORKSPACE, None).unwrap_err();
    let error = refused(ProductShape { rows: 0, ..small() });
    assert_eq!(
        error.to_string(),
        "rows = 0: a product has 1 to 2147483647 of each"
    );
    let error = refused(ProductShape {
        inputs: 1 << 31,
        ..small()
    });
    assert!(
        error.to_string().starts_with("inputs = 2147483648"),
        "{error}"
    );
    let precision = InferencePrecision::INT8;
    let error = refused(ProductShape {
        precision,
        ..small()
    });
    assert!(matches!(
        error,
        Error::UnsupportedPrecision {
            precision: "int8",
            ..
        }
    ));
}

#[test]
fn the_ways_to_compute_a_product_fit_the_workspace() {
    let gpu = Gpu::new();
    let cublaslt = CublasLt::software(&gpu.device).unwrap();
    let candidates = |bytes| {
        cublaslt
            .product(small(), bytes, Some(8))
            .unwrap()
            .candidates()
    };
    assert_eq!([candidates(0), candidates(WORKSPACE)], [1, 2]);
    assert_eq!(cublaslt.version(), (13, 0, 0));
    assert_eq!(cublaslt.path(), Path::new("software"));
    assert_eq!(cublaslt.device(), &gpu.device);
}

#[test]
fn a_launch_that_cublaslt_refuses_names_the_call_and_the_status() {
    let gpu = Gpu::new();
    let cublaslt = CublasLt::load(&gpu.device).unwrap();
    let product = cublaslt.product(small(), WORKSPACE, None).unwrap();
    let buffer = gpu.pool.allocate(1 << 16).unwrap();
    let launch = |a: u64, bias: u64, workspace: u64| {
        let at = buffer.address();
        // SAFETY: the matrices lie in the buffer, or are refused.
        unsafe { product.launch(&gpu.stream, a, at, bias, 0, at + 4096, workspace) }
    };
    let at = buffer.address();
    assert!(launch(at, at, 0).is_ok());
    product.choose(7);
    assert!(launch(at, at, at).is_ok());
    for refused in [
        launch(at + 4, at, at),
        launch(0, at, at),
        launch(at, 0, at),
        launch(at, at, 0),
    ] {
        let error = refused.unwrap_err().to_string();
        assert_eq!(error, "cublasLtMatmul: CUBLAS_STATUS_INVALID_VALUE (7)");
    }
    gpu.stream.synchronize().unwrap();
}

#[test]
fn a_file_that_is_no_cublaslt_is_named_with_the_reason() {
    let gpu = Gpu::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libcublasLt.so.13");
    std::fs::write(&path, "no library").unwrap();
    let Error::CublasLtUnloadable {
        path: named,
        reason,
    } = CublasLt::load_file(&gpu.device, &path).unwrap_err()
    else {
        panic!("another error")
    };
    assert!(named == path && !reason.is_empty());
}
