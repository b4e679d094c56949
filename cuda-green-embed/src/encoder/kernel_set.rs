//! The kernels of one element type, loaded on a device, and the shape of each one's launch.

use cuda_green::{
    CudaDevice, CudaVersion, Kernel, KernelArg, LaunchConfig, Module, Stream, sys::CUdeviceptr,
};

use crate::{error::Result, kernels, precision::InferencePrecision};

/// The first compute capability whose kernels may start before the one in front has ended.
const PROGRAMMATIC_SINCE: (u32, u32) = (9, 0);
/// The first CUDA version that captures such launches into graphs.
const PROGRAMMATIC_GRAPHS_SINCE: CudaVersion = CudaVersion::new(12, 3);
/// The rows of a tile of attention's queries. The buffers have room for whole tiles.
pub(super) const ROWS: u32 = 64;

/// The kernels of one element type.
pub(super) struct KernelSet {
    embed: Kernel,
    layer_norm: Kernel,
    bias_gelu: Kernel,
    attention: Kernel,
    pool: Kernel,
    /// For two and three groups of eight outputs; absent in `f32`.
    linear: Option<[Kernel; 2]>,
    precision: InferencePrecision,
    programmatic: bool,
}

/// What all kernels of a pass share.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassShape {
    /// The most tokens that the launches take.
    pub bucket: u32,
    /// The most texts that they take.
    pub texts: u32,
    /// The batch in pinned memory, and its facts in device memory: see `bert.cu`.
    pub input: CUdeviceptr,
    pub facts: CUdeviceptr,
    /// The tokens that both have room for.
    pub capacity: u32,
    /// The values of a row of states.
    pub hidden: u32,
    pub heads: u32,
    /// What normalising adds to the variance.
    pub epsilon: f32,
}

/// A norm's scale and shift, in `f32`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub weight: CUdeviceptr,
    pub bias: CUdeviceptr,
}

/// What normalising the rows in front of a product becomes once it is folded into the product.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoldedNorm {
    /// The norm's scale in the element type.
    pub weight: CUdeviceptr,
    /// The sum over inputs of the scale times the product's weights, for each output, in `f32`.
    pub sums: CUdeviceptr,
    /// The product's bias and the sum over inputs of the shift times its weights, in `f32`.
    pub bias: CUdeviceptr,
    /// Where the mean and the inverse of the deviation of each row go.
    pub moments: CUdeviceptr,
}

/// The rows that are added to a product, normalised on the way if `norm` is given, by their moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    pub rows: CUdeviceptr,
    pub norm: Option<(Norm, CUdeviceptr)>,
}

/// A product for few tokens.
pub(super) struct FewProduct {
    pub rows: CUdeviceptr,
    pub norm: Option<FoldedNorm>,
    pub weight: CUdeviceptr,
    /// In `f32`; not read if `norm` is given.
    pub bias: CUdeviceptr,
    pub residual: Option<Residual>,
    pub gelu: bool,
    pub inputs: u32,
    pub outputs: u32,
    pub out: CUdeviceptr,
}

impl KernelSet {
    /// Loads the kernels, which the driver compiles for the device if it has not done so before.
    pub(super) fn load(
        device: &CudaDevice,
        precision: InferencePrecision,
        head_size: usize,
    ) -> Result<Self> {
        let programmatic = device.properties().compute_capability >= PROGRAMMATIC_SINCE
            && device.driver().version() >= PROGRAMMATIC_GRAPHS_SINCE;
        let element = kernels::suffix(precision)?;
        let module = Module::load_ptx(device, kernels::ptx(precision, programmatic)?)?;
        let kernel = |name: &str| module.kernel(&format!("cuda_green_{name}_{element}"));
        let linear = match precision {
            InferencePrecision::FP32 => None,
            _ => Some([kernel("linear_2")?, kernel("linear_3")?]),
        };
        Ok(Self {
            embed: kernel("embed")?,
            layer_norm: kernel("layer_norm")?,
            bias_gelu: kernel("bias_gelu")?,
            attention: kernel(&format!("attention_{head_size}"))?,
            pool: kernel("pool")?,
            linear,
            precision,
            programmatic,
        })
    }

    /// Returns whether there is a product for few tokens of this shape.
    pub(super) fn has_few(&self, inputs: u32, outputs: u32) -> bool {
        self.linear.is_some() && FewShape::of(inputs, outputs, 1, 1).is_some()
    }

    /// # Safety
    /// The arguments are those of the kernel, and what they point to lives until the stream has done the work.
    unsafe fn launch(
        &self,
        stream: &Stream,
        kernel: &Kernel,
        config: LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        let config = if self.programmatic {
            config.programmatic_dependent()
        } else {
            config
        };
        // SAFETY: the caller's promise.
        Ok(unsafe { stream.launch(kernel, &config, args) }?)
    }

    /// Writes the normalised embeddings of a bucket's tokens, and the facts of the batch.
    ///
    /// # Safety
    /// The addresses are those of live memory of the sizes that `bert.cu` states.
    pub(super) unsafe fn embed(
        &self,
        stream: &Stream,
        shape: &PassShape,
        [words, positions, types]: [CUdeviceptr; 3],
        norm: Norm,
        out: CUdeviceptr,
    ) -> Result<()> {
        let config = LaunchConfig::linear(shape.bucket.next_multiple_of(ROWS) / 32, 256);
        let args: [&dyn KernelArg; 11] = [
            &shape.input,
            &shape.facts,
            &shape.capacity,
            &words,
            &positions,
            &types,
            &norm.weight,
            &norm.bias,
            &shape.epsilon,
            &shape.hidden,
            &out,
        ];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, &self.embed, config, &args) }
    }

    /// Normalises rows in place.
    ///
    /// # Safety
    /// As [`embed`](Self::embed).
    pub(super) unsafe fn layer_norm(
        &self,
        stream: &Stream,
        shape: &PassShape,
        rows: CUdeviceptr,
        norm: Norm,
    ) -> Result<()> {
        let config = LaunchConfig::linear(shape.bucket.div_ceil(8), 256);
        let args: [&dyn KernelArg; 6] = [
            &shape.facts,
            &rows,
            &norm.weight,
            &norm.bias,
            &shape.epsilon,
            &shape.hidden,
        ];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, &self.layer_norm, config, &args) }
    }

    /// Adds a bias, in `f32`, to rows and applies GELU, in place.
    ///
    /// # Safety
    /// As [`embed`](Self::embed).
    pub(super) unsafe fn bias_gelu(
        &self,
        stream: &Stream,
        shape: &PassShape,
        rows: CUdeviceptr,
        bias: CUdeviceptr,
        columns: u32,
    ) -> Result<()> {
        let config = LaunchConfig::new(
            [shape.bucket.div_ceil(8), columns.div_ceil(512), 1],
            [128, 1, 1],
        );
        let args: [&dyn KernelArg; 4] = [&shape.facts, &rows, &bias, &columns];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, &self.bias_gelu, config, &args) }
    }

    /// Computes attention of all heads from rows of queries, keys and values.
    ///
    /// # Safety
    /// As [`embed`](Self::embed).
    pub(super) unsafe fn attention(
        &self,
        stream: &Stream,
        shape: &PassShape,
        qkv: CUdeviceptr,
        out: CUdeviceptr,
    ) -> Result<()> {
        let queries = match self.precision {
            InferencePrecision::FP32 => 4,
            _ => ROWS,
        };
        let grid = [shape.bucket.div_ceil(queries), shape.heads, 1];
        let config = LaunchConfig::new(grid, [128, 1, 1]);
        let scale = ((shape.hidden / shape.heads) as f32).sqrt().recip();
        let args: [&dyn KernelArg; 6] = [
            &shape.facts,
            &shape.capacity,
            &qkv,
            &shape.hidden,
            &scale,
            &out,
        ];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, &self.attention, config, &args) }
    }

    /// Writes the vectors of the texts, from rows that are normalised first.
    ///
    /// # Safety
    /// As [`embed`](Self::embed).
    pub(super) unsafe fn pool(
        &self,
        stream: &Stream,
        shape: &PassShape,
        rows: CUdeviceptr,
        norm: Norm,
        (first_only, unit_length): (bool, bool),
        out: CUdeviceptr,
    ) -> Result<()> {
        let config = LaunchConfig::linear(shape.texts, 256);
        let (first_only, unit_length) = (u32::from(first_only), u32::from(unit_length));
        let args: [&dyn KernelArg; 10] = [
            &shape.facts,
            &shape.capacity,
            &rows,
            &norm.weight,
            &norm.bias,
            &shape.epsilon,
            &shape.hidden,
            &first_only,
            &unit_length,
            &out,
        ];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, &self.pool, config, &args) }
    }

    /// Computes a product for few tokens, with all around it fused.
    ///
    /// # Safety
    /// As [`embed`](Self::embed); [`has_few`](Self::has_few) is true for the shape.
    pub(super) unsafe fn few(
        &self,
        stream: &Stream,
        pass: &PassShape,
        product: &FewProduct,
    ) -> Result<()> {
        let FewProduct {
            rows,
            norm,
            weight,
            bias,
            residual,
            gelu,
            inputs,
            outputs,
            out,
        } = product;
        let sms = stream.context().sm_count();
        let shape = FewShape::of(*inputs, *outputs, pass.bucket.div_ceil(16), sms);
        let (Some(shape), Some(kernels)) = (shape, &self.linear) else {
            return Ok(());
        };
        let none: CUdeviceptr = 0;
        let (norm_weight, sums, moments, bias) = match norm {
            Some(norm) => (&norm.weight, &norm.sums, &norm.moments, &norm.bias),
            None => (&none, &none, &none, bias),
        };
        let (added, added_norm) = match residual {
            Some(residual) => (&residual.rows, residual.norm),
            None => (&none, None),
        };
        let (added_norm, added_moments) = match &added_norm {
            Some((norm, moments)) => (*norm, moments),
            None => (Norm { weight: 0, bias: 0 }, &none),
        };
        let gelu = u32::from(*gelu);
        let args: [&dyn KernelArg; 15] = [
            rows,
            norm_weight,
            sums,
            &pass.epsilon,
            moments,
            weight,
            bias,
            added,
            added_moments,
            &added_norm.weight,
            &added_norm.bias,
            &gelu,
            inputs,
            outputs,
            out,
        ];
        let kernel = &kernels[usize::from(shape.columns == 3)];
        // SAFETY: these are the kernel's parameters, in order.
        unsafe { self.launch(stream, kernel, shape.config(), &args) }
    }
}

/// The launch of a product for few tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FewShape {
    /// Groups of eight outputs of a block: 2 or 3.
    columns: u32,
    /// Warps of a block, which share the inputs among them in groups of 32.
    warps: u32,
    grid: [u32; 3],
}

impl FewShape {
    /// Chooses the launch for a number of tiles of 16 tokens and of SMs, or returns `None` if no launch can have this
    /// shape.
    ///
    /// Blocks of many warps have the shortest way from weights to result, as long as each SM has one block at most. With
    /// more blocks than SMs, blocks of six or eight warps run two on an SM, which beats a second round. Measured on an
    /// H200, whole and in 32 SMs, for the four products of all-MiniLM-L6-v2: the choice is the fastest of up to 15, or
    /// within 5 % of it.
    fn of(inputs: u32, outputs: u32, tiles: u32, sms: u32) -> Option<Self> {
        let columns = match outputs {
            _ if outputs.is_multiple_of(24) && outputs > inputs => 3,
            _ if outputs.is_multiple_of(16) => 2,
            _ => return None,
        };
        let blocks = outputs / (columns * 8) * tiles;
        let wanted: &[u32] = if blocks <= sms {
            &[12, 16, 8, 6, 4]
        } else {
            &[6, 8, 4, 12, 16]
        };
        let divides = |warps: &&u32| inputs.is_multiple_of(**warps * 32);
        let warps = *wanted.iter().find(divides)?;
        Some(Self {
            columns,
            warps,
            grid: [outputs / (columns * 8), tiles, 1],
        })
    }

    fn config(self) -> LaunchConfig {
        // The sums of each warp, and two for each row.
        let floats = self.warps * 16 * (self.columns * 8 + 2);
        LaunchConfig::new(self.grid, [self.warps * 32, 1, 1]).shared_bytes(floats * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::FewShape;

    #[test]
    fn every_model_of_the_family_has_a_launch() {
        for (hidden, intermediate) in [(384, 1536), (512, 2048), (768, 3072), (1024, 4096)] {
            for (inputs, outputs) in [
                (hidden, 3 * hidden),
                (hidden, hidden),
                (hidden, intermediate),
                (intermediate, hidden),
            ] {
                for tiles in 1..=4 {
                    for sms in [1, 8, 32, 132] {
                        let Some(shape) = FewShape::of(inputs, outputs, tiles, sms) else {
                            panic!("{inputs} to {outputs}")
                        };
                        assert_eq!(shape.grid[0] * shape.columns * 8, outputs);
                        assert_eq!(inputs % (shape.warps * 32), 0);
                        assert!((4..=16).contains(&shape.warps));
                        assert!(shape.config().shared_bytes <= 48 << 10);
                    }
                }
            }
        }
        assert_eq!(FewShape::of(312, 1200, 1, 32), None);
    }

    #[test]
    fn the_launches_are_those_that_were_fastest() {
        let shape = |inputs, outputs, sms| {
            let shape = FewShape::of(inputs, outputs, 1, sms);
            shape.map(|shape| (shape.columns, shape.warps))
        };
        assert_eq!(shape(384, 1152, 32), Some((3, 6)));
        assert_eq!(shape(384, 384, 32), Some((2, 12)));
        assert_eq!(shape(384, 1536, 32), Some((3, 6)));
        assert_eq!(shape(1536, 384, 32), Some((2, 12)));
        assert_eq!(shape(384, 1152, 132), Some((3, 12)));
    }
}
