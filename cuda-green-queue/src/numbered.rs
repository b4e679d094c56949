//! Tasks without a type of their own.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use crate::task::Task;

/// A task that is told by a method's number, an input and an output, for which a type of its own would say no more:
/// `cuda_green::NumberedTask<METHOD, Input, Output>` in a kernel.
///
/// The input has at least one byte.
///
/// ```
/// use cuda_green_queue::{NumberedTask, TaskQueue};
///
/// type Square = NumberedTask<7, u64, u64>;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let device = cuda_green::Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let queue = TaskQueue::builder()
///     .handler(|Square { input, .. }| Ok(input * input))
///     .build(&device)?;
/// assert_eq!(queue.submit(Square::new(5))?.wait()?, 25);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[repr(transparent)]
pub struct NumberedTask<const METHOD: u16, Input, Output> {
    /// The input of the method.
    pub input: Input,
    output: PhantomData<fn() -> Output>,
}

impl<const METHOD: u16, Input, Output> NumberedTask<METHOD, Input, Output> {
    /// Makes a task of an input.
    pub const fn new(input: Input) -> Self {
        const {
            assert!(
                size_of::<Input>() > 0,
                "an input without bytes is one of 1 byte in C++"
            )
        };
        Self {
            input,
            output: PhantomData,
        }
    }
}

impl<const METHOD: u16, Input: Copy, Output> Clone for NumberedTask<METHOD, Input, Output> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const METHOD: u16, Input: Copy, Output> Copy for NumberedTask<METHOD, Input, Output> {}

// SAFETY: it has the layout of its input, for which zeros are a value.
unsafe impl<const METHOD: u16, Input: Zeroable, Output> Zeroable
    for NumberedTask<METHOD, Input, Output>
{
}

// SAFETY: it has the layout of its input, which is plain data; the marker is of no bytes.
unsafe impl<const METHOD: u16, Input: Pod, Output: 'static> Pod
    for NumberedTask<METHOD, Input, Output>
{
}

impl<const METHOD: u16, Input: Pod + Send, Output: Pod + Send> Task
    for NumberedTask<METHOD, Input, Output>
{
    const METHOD: u16 = METHOD;
    type Output = Output;
}
