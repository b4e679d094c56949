//! What each call of the API says beside a capture, and what it does to the capture: by the capture's mode, on
//! its own thread and on another.

use std::{cell::RefCell, ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, NON_BLOCKING, OK, Seen, call, must, say},
    graphs::{end_and_note, status},
};

pub const CASES: &[Case] = &[
    Case::new("beside_captures/global", |gpu, seen| beside(gpu, seen, 0)),
    Case::new("beside_captures/of_the_thread", |gpu, seen| {
        beside(gpu, seen, 1)
    }),
    Case::new("beside_captures/relaxed", |gpu, seen| beside(gpu, seen, 2)),
    Case::new("beside_captures/other_threads", other_threads),
    Case::new("beside_captures/frees", |gpu, seen| frees(gpu, seen, false)),
    Case::new("beside_captures/frees_in_relaxed_mode", |gpu, seen| {
        frees(gpu, seen, true)
    }),
];

/// What is there when a call is made, and what has to be given back when the capture has ended.
struct Scene<'a> {
    gpu: &'a Gpu<'a>,
    /// In a capture.
    stream: CUstream,
    /// In none, of the same green context.
    beside: CUstream,
    green: CUgreenCtx,
    /// Another green context.
    other: CUgreenCtx,
    /// Recorded in `beside`, and done.
    event: CUevent,
    module: CUmodule,
    address: CUdeviceptr,
    exec: CUgraphExec,
    graph: CUgraph,
    pool: CUmemoryPool,
    left: RefCell<Vec<Left>>,
}

/// Something that a call made.
enum Left {
    Memory(CUdeviceptr),
    Pinned(*mut c_void),
    Event(CUevent),
    Stream(CUstream),
    Module(CUmodule),
    Green(CUgreenCtx),
    Graph(CUgraph),
    Exec(CUgraphExec),
    Pool(CUmemoryPool),
}

impl Scene<'_> {
    /// Keeps what a call made, if it did.
    fn keep(&self, code: CUresult, left: Left) -> CUresult {
        if code == OK {
            self.left.borrow_mut().push(left);
        }
        code
    }

    fn clear(&self) {
        let gpu = self.gpu;
        for left in self.left.take().into_iter().rev() {
            must(match left {
                Left::Memory(address) => call!(gpu, cuMemFree_v2(address)),
                Left::Pinned(pointer) => call!(gpu, cuMemFreeHost(pointer)),
                Left::Event(event) => call!(gpu, cuEventDestroy_v2(event)),
                Left::Stream(stream) => call!(gpu, cuStreamDestroy_v2(stream)),
                Left::Module(module) => call!(gpu, cuModuleUnload(module)),
                Left::Green(green) => call!(gpu, cuGreenCtxDestroy(green)),
                Left::Graph(graph) => call!(gpu, cuGraphDestroy(graph)),
                Left::Exec(exec) => call!(gpu, cuGraphExecDestroy(exec)),
                Left::Pool(pool) => call!(gpu, cuMemPoolDestroy(pool)),
            });
        }
    }
}

const PTX: &std::ffi::CStr = c".version 6.0\n.target sm_60\n.address_size 64\n";

type Call = fn(&Scene<'_>) -> CUresult;

/// Calls by name. None of them uses a handle that is not alive.
const CALLS: &[(&str, Call)] = &[
    ("nothing", |_| OK),
    ("wait for the stream", |s| {
        call!(s.gpu, cuStreamSynchronize(s.stream))
    }),
    ("ask the stream", |s| call!(s.gpu, cuStreamQuery(s.stream))),
    ("wait for another stream", |s| {
        call!(s.gpu, cuStreamSynchronize(s.beside))
    }),
    ("ask another stream", |s| {
        call!(s.gpu, cuStreamQuery(s.beside))
    }),
    ("wait for the context", |s| call!(s.gpu, cuCtxSynchronize())),
    ("wait for the green context", |s| {
        let context = s.gpu.context(s.green).unwrap();
        s.gpu.within(context, || call!(s.gpu, cuCtxSynchronize()))
    }),
    ("wait for another green context", |s| {
        let context = s.gpu.context(s.other).unwrap();
        s.gpu.within(context, || call!(s.gpu, cuCtxSynchronize()))
    }),
    ("launch in another stream", |s| s.gpu.launch_empty(s.beside)),
    ("launch in the default stream", |s| {
        s.gpu.launch_empty(ptr::null_mut())
    }),
    ("create an event", |s| {
        let mut event = ptr::null_mut();
        let code = call!(s.gpu, cuEventCreate(&mut event, 2));
        s.keep(code, Left::Event(event))
    }),
    ("ask an event", |s| call!(s.gpu, cuEventQuery(s.event))),
    ("wait for an event", |s| {
        call!(s.gpu, cuEventSynchronize(s.event))
    }),
    ("time an event", |s| {
        call!(s.gpu, cuEventElapsedTime(&mut 0.0, s.event, s.event))
    }),
    ("record an event elsewhere", |s| {
        call!(s.gpu, cuEventRecord(s.event, s.beside))
    }),
    ("record the context", |s| {
        call!(s.gpu, cuGreenCtxRecordEvent(s.green, s.event))
    }),
    ("record another context", |s| {
        call!(s.gpu, cuGreenCtxRecordEvent(s.other, s.event))
    }),
    ("the context waits", |s| {
        call!(s.gpu, cuGreenCtxWaitEvent(s.green, s.event))
    }),
    ("another context waits", |s| {
        call!(s.gpu, cuGreenCtxWaitEvent(s.other, s.event))
    }),
    ("create a stream", |s| {
        let mut stream = ptr::null_mut();
        let code = call!(
            s.gpu,
            cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, 0)
        );
        s.keep(code, Left::Stream(stream))
    }),
    ("create a stream in the context", |s| {
        let context = s.gpu.context(s.green).unwrap();
        let mut stream = ptr::null_mut();
        let code = s.gpu.within(context, || {
            call!(
                s.gpu,
                cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, 0)
            )
        });
        s.keep(code, Left::Stream(stream))
    }),
    ("the stream's priority", |s| {
        call!(s.gpu, cuStreamGetPriority(s.stream, &mut 0))
    }),
    ("the stream's flags", |s| {
        call!(s.gpu, cuStreamGetFlags(s.stream, &mut 0))
    }),
    ("allocate", |s| {
        let mut address = 0;
        let code = call!(s.gpu, cuMemAlloc_v2(&mut address, 64));
        s.keep(code, Left::Memory(address))
    }),
    ("free null", |s| call!(s.gpu, cuMemFree_v2(0))),
    ("allocate from a pool elsewhere", |s| {
        let mut address = 0;
        let code = call!(s.gpu, cuMemAllocAsync(&mut address, 64, s.beside));
        s.keep(code, Left::Memory(address))
    }),
    ("pin", |s| {
        let mut pointer = ptr::null_mut();
        let code = call!(s.gpu, cuMemHostAlloc(&mut pointer, 64, 0));
        s.keep(code, Left::Pinned(pointer))
    }),
    ("create a pool", |s| {
        let mut pool = ptr::null_mut();
        let code = call!(s.gpu, cuMemPoolCreate(&mut pool, &of_the_device()));
        s.keep(code, Left::Pool(pool))
    }),
    ("ask a pool", |s| {
        let attribute = CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        let mut bytes = 0_u64;
        let value = (&raw mut bytes).cast();
        call!(s.gpu, cuMemPoolGetAttribute(s.pool, attribute, value))
    }),
    ("set a pool's threshold", |s| {
        let attribute = CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut bytes = 0_u64;
        let value = (&raw mut bytes).cast();
        call!(s.gpu, cuMemPoolSetAttribute(s.pool, attribute, value))
    }),
    ("ask for free memory", |s| {
        call!(s.gpu, cuMemGetInfo_v2(&mut 0, &mut 0))
    }),
    ("copy in and wait", |s| {
        let byte = 0_u8;
        call!(
            s.gpu,
            cuMemcpyHtoD_v2(s.address, (&raw const byte).cast(), 1)
        )
    }),
    ("copy out and wait", |s| {
        let mut byte = 0_u8;
        call!(s.gpu, cuMemcpyDtoH_v2((&raw mut byte).cast(), s.address, 1))
    }),
    ("set elsewhere", |s| {
        call!(s.gpu, cuMemsetD8Async(s.address, 0, 1, s.beside))
    }),
    ("load a module", |s| {
        let mut module = ptr::null_mut();
        let code = call!(s.gpu, cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
        s.keep(code, Left::Module(module))
    }),
    ("look for a function", |s| {
        let mut function = ptr::null_mut();
        let name = c"cuda_green_burn".as_ptr();
        call!(s.gpu, cuModuleGetFunction(&mut function, s.module, name))
    }),
    ("set a function's attribute", |s| {
        let function = s.gpu.function(s.module, c"cuda_green_burn").unwrap();
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(s.gpu, cuFuncSetAttribute(function, attribute, 64 << 10))
    }),
    ("how many blocks fit", |s| {
        let function = s.gpu.function(s.module, c"cuda_green_burn").unwrap();
        call!(
            s.gpu,
            cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, function, 32, 0)
        )
    }),
    ("count a module's functions", |s| {
        call!(s.gpu, cuModuleGetFunctionCount(&mut 0, s.module))
    }),
    ("split the device", |s| {
        let whole = s.gpu.whole();
        s.gpu.split(&whole, 1, 0, 16).err().unwrap_or(OK)
    }),
    ("create a green context", |s| {
        match s.gpu.green(&[s.gpu.resource(s.other)]) {
            Ok(green) => s.keep(OK, Left::Green(green)),
            Err(code) => code,
        }
    }),
    ("make a context current", |s| {
        let context = s.gpu.context(s.other).unwrap();
        s.gpu.within(context, || OK)
    }),
    ("create a graph", |s| {
        let mut graph = ptr::null_mut();
        let code = call!(s.gpu, cuGraphCreate(&mut graph, 0));
        s.keep(code, Left::Graph(graph))
    }),
    ("instantiate a graph", |s| {
        let mut exec = ptr::null_mut();
        let code = call!(s.gpu, cuGraphInstantiateWithFlags(&mut exec, s.graph, 0));
        s.keep(code, Left::Exec(exec))
    }),
    ("launch a graph elsewhere", |s| {
        call!(s.gpu, cuGraphLaunch(s.exec, s.beside))
    }),
    ("upload a graph elsewhere", |s| {
        call!(s.gpu, cuGraphUpload(s.exec, s.beside))
    }),
    ("upload a graph here", |s| {
        call!(s.gpu, cuGraphUpload(s.exec, s.stream))
    }),
];

fn of_the_device() -> CUmemPoolProps {
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        ..CUmemPoolProps::default()
    };
    props.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    props
}

fn pool(gpu: &Gpu<'_>) -> CUmemoryPool {
    let mut pool = ptr::null_mut();
    must(call!(gpu, cuMemPoolCreate(&mut pool, &of_the_device())));
    pool
}

/// Runs something with all that the calls need; each name gets a stream of its own.
fn with_scene(gpu: &Gpu<'_>, run: impl FnOnce(&mut Scene<'_>)) {
    let [green, other] = gpu.quarters();
    let event = gpu.event(0);
    let mut module = ptr::null_mut();
    let image = cuda_green::kernels::PTX.to_owned() + "\0";
    must(call!(
        gpu,
        cuModuleLoadData(&mut module, image.as_ptr().cast())
    ));
    let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
    must(call!(gpu, cuGraphCreate(&mut graph, 0)));
    must(call!(gpu, cuGraphInstantiateWithFlags(&mut exec, graph, 0)));
    let mut scene = Scene {
        gpu,
        stream: ptr::null_mut(),
        beside: gpu.stream(green),
        green,
        other,
        event,
        module,
        address: gpu.alloc(64).unwrap(),
        exec,
        graph,
        pool: pool(gpu),
        left: RefCell::default(),
    };
    run(&mut scene);
    must(call!(gpu, cuMemPoolDestroy(scene.pool)));
    must(call!(gpu, cuMemFree_v2(scene.address)));
    gpu.close(scene.beside);
    must(call!(gpu, cuGraphExecDestroy(exec)));
    must(call!(gpu, cuGraphDestroy(graph)));
    must(call!(gpu, cuModuleUnload(module)));
    must(call!(gpu, cuEventDestroy_v2(event)));
    gpu.destroy(green);
    gpu.destroy(other);
}

fn begin(scene: &mut Scene<'_>, mode: u32) {
    let gpu = scene.gpu;
    // Whatever the last call did with it.
    must(call!(gpu, cuEventRecord(scene.event, scene.beside)));
    must(call!(gpu, cuCtxSynchronize()));
    scene.stream = gpu.stream(scene.green);
    let mode = CUstreamCaptureMode_enum(mode);
    must(call!(gpu, cuStreamBeginCapture_v2(scene.stream, mode)));
}

fn end(scene: &Scene<'_>, seen: &mut Seen, name: &str) {
    let gpu = scene.gpu;
    seen.note(
        format!("{name}: the capture then"),
        status(gpu, scene.stream),
    );
    end_and_note(gpu, seen, &format!("{name}: end"), scene.stream);
    must(call!(gpu, cuCtxSynchronize()));
    scene.clear();
    gpu.close(scene.stream);
}

fn beside(gpu: &Gpu<'_>, seen: &mut Seen, mode: u32) {
    with_scene(gpu, |scene| {
        for (name, make) in CALLS {
            begin(scene, mode);
            seen.code(*name, make(scene));
            end(scene, seen, name);
        }
    });
}

/// A few calls from another thread, whose own mode is each of the three.
fn other_threads(gpu: &Gpu<'_>, seen: &mut Seen) {
    let api = gpu.api;
    let primary = gpu.primary as usize;
    with_scene(gpu, |scene| {
        for mode in 0..3 {
            for own in 0..3 {
                for what in ["allocate", "ask an event", "wait for a stream"] {
                    begin(scene, mode);
                    let (event, stream) = (scene.event as usize, scene.beside as usize);
                    let there = || {
                        let gpu = Gpu::bare(api);
                        let mut own = CUstreamCaptureMode_enum(own);
                        must(call!(gpu, cuThreadExchangeStreamCaptureMode(&mut own)));
                        let primary = ptr::without_provenance_mut(primary);
                        must(call!(gpu, cuCtxSetCurrent(primary)));
                        let code = match what {
                            "allocate" => {
                                let mut address = 0;
                                let code = call!(gpu, cuMemAlloc_v2(&mut address, 64));
                                if code == OK {
                                    must(call!(gpu, cuMemFree_v2(address)));
                                }
                                code
                            }
                            "ask an event" => {
                                call!(gpu, cuEventQuery(ptr::without_provenance_mut(event)))
                            }
                            _ => {
                                let stream = ptr::without_provenance_mut(stream);
                                call!(gpu, cuStreamSynchronize(stream))
                            }
                        };
                        must(call!(gpu, cuCtxSetCurrent(ptr::null_mut())));
                        say(code)
                    };
                    let code = std::thread::scope(|scope| scope.spawn(there).join().unwrap());
                    let name = format!("capture of mode {mode}, thread of mode {own}: {what}");
                    seen.note(&name, code);
                    end(scene, seen, &name);
                }
            }
        }
    });
}

/// What is freed beside a capture. What the call leaves is freed after it.
const FREED: &[&str] = &[
    "memory",
    "memory in a stream's order",
    "pinned memory",
    "a pool's idle memory",
    "a pool",
    "an event",
    "a stream",
    "an instantiated graph",
    "a graph",
    "a module",
    "a green context",
];

/// Frees beside a capture of each mode, by its own thread: in that thread's usual mode, or in the relaxed one.
fn frees(gpu: &Gpu<'_>, seen: &mut Seen, relaxed: bool) {
    with_scene(gpu, |scene| {
        for mode in 0..3 {
            for what in FREED {
                let mut address = 0;
                let code = call!(gpu, cuMemAllocAsync(&mut address, 64, scene.beside));
                must(code);
                let memory = gpu.alloc(64).unwrap();
                let mut pinned = ptr::null_mut();
                must(call!(gpu, cuMemHostAlloc(&mut pinned, 64, 0)));
                let pool = pool(gpu);
                let mut graph = ptr::null_mut();
                must(call!(gpu, cuGraphCreate(&mut graph, 0)));
                let mut module = ptr::null_mut();
                must(call!(
                    gpu,
                    cuModuleLoadData(&mut module, PTX.as_ptr().cast())
                ));
                let green = gpu.green(&[gpu.resource(scene.other)]).unwrap();
                let event = gpu.event(0);
                let stream = gpu.stream(scene.other);
                let mut exec = ptr::null_mut();
                let flags = 0;
                must(call!(
                    gpu,
                    cuGraphInstantiateWithFlags(&mut exec, scene.graph, flags)
                ));
                begin(scene, mode);
                let mut exchanged = CUstreamCaptureMode_enum(2);
                if relaxed {
                    must(call!(
                        gpu,
                        cuThreadExchangeStreamCaptureMode(&mut exchanged)
                    ));
                }
                let free = |what: &str| match what {
                    "memory" => call!(gpu, cuMemFree_v2(memory)),
                    "memory in a stream's order" => {
                        call!(gpu, cuMemFreeAsync(address, scene.beside))
                    }
                    "pinned memory" => call!(gpu, cuMemFreeHost(pinned)),
                    "a pool's idle memory" => call!(gpu, cuMemPoolTrimTo(pool, 0)),
                    "a pool" => call!(gpu, cuMemPoolDestroy(pool)),
                    "an event" => call!(gpu, cuEventDestroy_v2(event)),
                    "a stream" => call!(gpu, cuStreamDestroy_v2(stream)),
                    "a graph" => call!(gpu, cuGraphDestroy(graph)),
                    "a module" => call!(gpu, cuModuleUnload(module)),
                    "a green context" => call!(gpu, cuGreenCtxDestroy(green)),
                    _ => call!(gpu, cuGraphExecDestroy(exec)),
                };
                let code = free(what);
                if relaxed {
                    must(call!(
                        gpu,
                        cuThreadExchangeStreamCaptureMode(&mut exchanged)
                    ));
                }
                let name = format!("capture of mode {mode}: {what}");
                seen.code(&name, code);
                end(scene, seen, &name);
                for other in FREED {
                    let is_gone = *other == *what && code == OK;
                    if !is_gone && *other != "a pool's idle memory" {
                        must(free(other));
                    }
                }
            }
        }
    });
}
