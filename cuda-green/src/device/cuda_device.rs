//! The handle of a device: its properties and its state, and their end.

use std::{ffi::c_int, fmt, sync::Arc};

use cuda_green_sys::{CUcontext, CUdevice, CUdevice_attribute};

use super::{
    copy_streams::CopyStreams,
    facts::{attribute, granularity, name, uuid},
    raw_module::RawModule,
};
use crate::{
    capabilities::Capabilities,
    driver::{Driver, log_failure},
    error::{Error, Result},
    kernels,
    once::Once,
    planner::DeviceFacts,
};

/// The unchanging properties of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CudaDeviceProperties {
    /// Major and minor compute capability: `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Memory in bytes.
    pub total_memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessor_count: u32,
    /// The driver's name for the device.
    pub name: String,
}

/// One GPU of a driver. Cheap to clone; all clones are the same device.
///
/// The primary context is retained at the first use that needs it (76-115 ms on a real driver) and
/// released when the last handle is dropped.
#[derive(Clone)]
pub struct CudaDevice {
    pub(super) inner: Arc<DeviceInner>,
}

pub(super) struct DeviceInner {
    driver: Driver,
    ordinal: u32,
    handle: CUdevice,
    properties: CudaDeviceProperties,
    capabilities: Capabilities,
    /// Whether the process uses the device through MPS; this never changes during a process.
    under_mps: bool,
    /// The reason why this device has no green contexts, if it has none.
    no_green_contexts: Option<String>,
    pub(super) primary: Once<Primary>,
    kernels: Once<RawModule>,
    pub(super) copy_streams: CopyStreams,
}

/// The retained primary context.
pub(super) struct Primary {
    pub(super) context: CUcontext,
    /// Least and greatest stream priority; lower numbers have precedence.
    pub(super) priorities: (c_int, c_int),
}

// SAFETY: the context handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Primary {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Primary {}

impl CudaDevice {
    /// Returns the device with this ordinal on the process's driver ([`Driver::load`]).
    ///
    /// # Errors
    /// [`Error::Load`] without a driver, [`Error::NoGpu`] without a GPU, [`Error::NoSuchDevice`].
    pub fn init(device_id: u32) -> Result<Self> {
        Self::on(&Driver::load()?, device_id)
    }

    /// Returns the device with this ordinal on a given driver.
    ///
    /// # Errors
    /// [`Error::NoGpu`], [`Error::NoSuchDevice`], [`Error::Driver`].
    pub fn on(driver: &Driver, device_id: u32) -> Result<Self> {
        let count = driver.device_count()?;
        if device_id >= count {
            return Err(Error::NoSuchDevice {
                asked: device_id,
                count,
            });
        }
        let mut handle = 0;
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { driver.cuDeviceGet(&mut handle, device_id as c_int) }?;

        let attribute = |which| {
            let value = attribute(driver, handle, which)?;
            Ok::<u32, Error>(u32::try_from(value).unwrap_or(0))
        };
        let compute_capability = (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let mut total_memory = 0;
        // SAFETY: the pointer is valid for the one number that is written.
        unsafe { driver.cuDeviceTotalMem_v2(&mut total_memory, handle) }?;
        let properties = CudaDeviceProperties {
            compute_capability,
            total_memory: total_memory as u64,
            multiprocessor_count: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?,
            name: name(driver, handle)?,
        };
        // Drivers that are older than this attribute refuse the query.
        let under_mps = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED);
        let reported = granularity(driver, handle)?;
        let mut capabilities = Capabilities::of(
            driver.version(),
            compute_capability,
            reported.as_ref().ok().copied().flatten(),
        );
        let no_green_contexts = reported.err();
        capabilities.green_contexts = no_green_contexts.is_none();
        Ok(Self {
            inner: Arc::new(DeviceInner {
                driver: driver.clone(),
                ordinal: device_id,
                handle,
                properties,
                capabilities,
                under_mps: under_mps.is_ok_and(|enabled| enabled != 0),
                no_green_contexts,
                primary: Once::default(),
                kernels: Once::default(),
                copy_streams: CopyStreams::default(),
            }),
        })
    }

    /// Returns the facts that the planner needs.
    pub(crate) fn facts(&self) -> DeviceFacts {
        let properties = &self.inner.properties;
        DeviceFacts::new(
            properties.multiprocessor_count,
            properties.compute_capability,
            self.inner.capabilities,
        )
    }

    /// Returns the driver that the device belongs to.
    pub fn driver(&self) -> &Driver {
        &self.inner.driver
    }

    /// Returns the device's ordinal, from 0.
    pub fn ordinal(&self) -> u32 {
        self.inner.ordinal
    }

    /// Returns the driver's name for the device.
    pub fn name(&self) -> &str {
        &self.inner.properties.name
    }

    /// Returns the device's UUID, which is the same in every process: that of its part, where it is divided by MIG.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuDeviceGetUuid")]
    pub fn uuid(&self) -> Result<[u8; 16]> {
        uuid(self.driver(), self.raw())
    }

    /// Returns the size of the device's memory in bytes.
    pub fn total_memory(&self) -> u64 {
        self.inner.properties.total_memory
    }

    /// Returns the unchanging properties of the device.
    pub fn properties(&self) -> &CudaDeviceProperties {
        &self.inner.properties
    }

    /// Returns what this driver can do with this device.
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Returns whether the GPU can be partitioned here. If not, everything works in one context.
    pub fn supports_required_features(&self) -> bool {
        self.inner.capabilities.green_contexts
    }

    /// Returns the reason why the GPU cannot be partitioned here, if it cannot.
    pub fn missing_features(&self) -> Option<&str> {
        self.inner.no_green_contexts.as_deref()
    }

    /// Returns whether the process uses the device through MPS, the server that lets processes share a GPU.
    ///
    /// Under MPS each context numbers its SM ids from 0 (measured on an H200, driver 580), and other
    /// processes can run at the same time. For drivers that do not know the attribute, this is `false`.
    pub fn is_under_mps(&self) -> bool {
        self.inner.under_mps
    }

    /// Returns the free memory in bytes as the driver sees it now, with all processes taken into account.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemGetInfo")]
    pub fn free_memory(&self) -> Result<u64> {
        let (mut free, mut total) = (0, 0);
        self.with_primary(|| {
            // SAFETY: both pointers are valid for the one number each that is written.
            unsafe { self.driver().cuMemGetInfo_v2(&mut free, &mut total) }
        })?;
        Ok(free as u64)
    }

    /// Returns an attribute of the device as the driver's number, for example the compute mode.
    ///
    /// ```
    /// use cuda_green::{Driver, sys::CUdevice_attribute};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let warp = device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?;
    /// assert_eq!(warp, 32);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Driver`]: `CUDA_ERROR_INVALID_VALUE` for an attribute that is newer than the driver.
    #[doc(alias = "cuDeviceGetAttribute")]
    pub fn attribute(&self, which: CUdevice_attribute) -> Result<c_int> {
        attribute(self.driver(), self.raw(), which)
    }

    /// Returns the raw handle: the driver's form of the ordinal.
    pub fn raw(&self) -> CUdevice {
        self.inner.handle
    }

    /// Returns the crate's own kernels, loaded once per device.
    pub(crate) fn kernels(&self) -> Result<&RawModule> {
        let load = || RawModule::load_ptx(self, kernels::PTX);
        self.inner.kernels.get_or_make(load)
    }

    /// Ensures that an object, named by `what` in the error, belongs to this device and driver.
    ///
    /// # Errors
    /// [`Error::ForeignDriver`], [`Error::ForeignDevice`].
    #[inline]
    pub(crate) fn check_own(&self, what: &'static str, of: &Self) -> Result<()> {
        self.driver().check_own(of.driver())?;
        if self.raw() == of.raw() {
            Ok(())
        } else {
            Err(Error::ForeignDevice {
                what,
                device: of.ordinal(),
                expected: self.ordinal(),
            })
        }
    }
}

impl Driver {
    /// Returns the device with this ordinal.
    ///
    /// # Errors
    /// [`Error::NoGpu`], [`Error::NoSuchDevice`], [`Error::Driver`].
    pub fn device(&self, ordinal: u32) -> Result<CudaDevice> {
        CudaDevice::on(self, ordinal)
    }
}

impl Drop for DeviceInner {
    fn drop(&mut self) {
        if let (Some(module), Some(primary)) = (self.kernels.take(), self.primary.get()) {
            module.unload(&self.driver, primary.context);
        }
        self.copy_streams.destroy(&self.driver);
        if self.primary.get().is_some() {
            // SAFETY: everything made in the primary context holds this device, so nothing is left.
            log_failure(unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(self.handle) });
        }
    }
}

/// Two handles are equal if they refer to the same device of the same driver.
impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        self.driver() == other.driver() && self.raw() == other.raw()
    }
}

impl Eq for CudaDevice {}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDevice")
            .field("driver", self.driver())
            .field("ordinal", &self.ordinal())
            .field("name", &self.name())
            .finish()
    }
}
