//! Peers: the devices of one simulated driver do not reach each other's memory, as on a host without links
//! between them.

use cuda_green_sys::{CUctx_st, CUresult};

use super::{Context, Driver, require};
use crate::c_args::{Answer, Raw};

impl Driver {
    pub(crate) fn cuDeviceCanAccessPeer(&self, can: Raw<i32>, device: i32, peer: i32) -> Answer {
        self.ready()?;
        can.required()?;
        self.device(device)?;
        self.device(peer)?;
        can.set(0)
    }

    pub(crate) fn cuCtxEnablePeerAccess(&self, peer: Raw<CUctx_st>, flags: u32) -> Answer {
        let state = self.enter()?;
        require(flags == 0)?;
        let _: Context = self.current(&state)?;
        let _: Context = self.context(&state, peer.handle())?;
        Err(CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)
    }

    pub(crate) fn cuCtxDisablePeerAccess(&self, peer: Raw<CUctx_st>) -> Answer {
        let state = self.enter()?;
        let _: Context = self.current(&state)?;
        let _: Context = self.context(&state, peer.handle())?;
        Err(CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED)
    }
}
