//! Graphs: made of captures, instantiated, launched.

use std::sync::Arc;

use cuda_green_sys::{CUgraph_st, CUgraphExec_st, CUresult, CUstream_st};

use super::{Context, Driver, Kind, State, as_pointer, require, stream_actions::Action};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    timeline::{GraphNode, GraphRun, Mark, Work},
};

/// The instantiation flags that this call takes: free on launch, launch by the device, use the nodes' own priorities.
/// The flag for an upload belongs to another call (measured on an H200, driver 580).
const FLAGS: u64 = 0b1101;
const DEVICE_LAUNCH: u64 = 4;
const USE_NODE_PRIORITY: u64 = 8;

/// A node, and the nodes before it by their indices in the graph.
pub(super) struct Node {
    pub(super) action: Arc<Action>,
    pub(super) after: Vec<usize>,
}

pub(super) struct Graph {
    /// The nodes, each after those that it follows.
    pub(super) nodes: Arc<[Node]>,
    pub(super) made_at: MadeAt,
}

pub(super) struct GraphExec {
    nodes: Arc<[Node]>,
    flags: u64,
    /// The end of its last launch, which the next launch follows.
    last: Option<Mark>,
    pub(super) made_at: MadeAt,
}

impl Driver {
    pub(super) fn keep_graph(&self, state: &mut State, graph: Graph) -> u64 {
        let handle = state.new_handle(self.number, Kind::Graph);
        state.graphs.insert(handle, graph);
        handle
    }

    pub(crate) fn cuGraphCreate(&self, graph: Raw<*mut CUgraph_st>, flags: u32) -> Answer {
        let mut state = self.enter()?;
        graph.required()?;
        require(flags == 0)?;
        let made = Graph {
            nodes: Arc::new([]),
            made_at: MadeAt::now(),
        };
        graph.set(as_pointer(self.keep_graph(&mut state, made)))
    }

    pub(crate) fn cuGraphDestroy(&self, graph: Raw<CUgraph_st>) -> Answer {
        let mut state = self.enter()?;
        let removed = state.graphs.remove(&graph.handle());
        removed.map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// Requires a current context if the graph has nodes. That is not measured.
    pub(crate) fn cuGraphInstantiateWithFlags(
        &self,
        exec: Raw<*mut CUgraphExec_st>,
        graph: Raw<CUgraph_st>,
        flags: u64,
    ) -> Answer {
        let mut state = self.enter()?;
        exec.required()?;
        require(flags & !FLAGS == 0)?;
        let found = state.graphs.get(&graph.handle());
        let nodes = Arc::clone(&found.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?.nodes);
        if flags & DEVICE_LAUNCH != 0 {
            // There must be nodes to launch (measured on an H200, driver 580).
            require(!nodes.is_empty())?;
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        self.safe_in_captures(&mut state)?;
        let handle = state.new_handle(self.number, Kind::GraphExec);
        state.graph_execs.insert(
            handle,
            GraphExec {
                nodes,
                flags,
                last: None,
                made_at: MadeAt::now(),
            },
        );
        exec.set(as_pointer(handle))
    }

    pub(crate) fn cuGraphExecDestroy(&self, exec: Raw<CUgraphExec_st>) -> Answer {
        let mut state = self.enter()?;
        self.safe_in_captures(&mut state)?;
        let removed = state.graph_execs.remove(&exec.handle());
        removed.map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    pub(crate) fn cuGraphUpload(
        &self,
        exec: Raw<CUgraphExec_st>,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        if !state.graph_execs.contains_key(&exec.handle()) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let of = self.lane(&state, stream.handle())?;
        state.not_captured(of)
    }

    /// Refuses a stream in a capture (measured on an H200, driver 580, with a graph of another green context).
    pub(crate) fn cuGraphLaunch(
        &self,
        exec: Raw<CUgraphExec_st>,
        stream: Raw<CUstream_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let handle = exec.handle();
        let found = state.graph_execs.get(&handle);
        let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let (nodes, flags) = (Arc::clone(&found.nodes), found.flags);
        let of = self.lane(&state, stream.handle())?;
        state.not_captured(of)?;
        for node in nodes.iter() {
            self.can_run(&state, &node.action)?;
        }
        let priority = (flags & USE_NODE_PRIORITY == 0)
            .then(|| self.priority(&state, stream.handle()))
            .transpose()?;
        // The client's functions are called without the driver's locks, because they may call the driver.
        drop(state);
        let work: Result<Vec<Option<Work>>, ()> =
            nodes.iter().map(|node| self.work(&node.action)).collect();
        let Ok(work) = work else {
            self.fault(CUresult::CUDA_ERROR_LAUNCH_FAILED);
            return Ok(());
        };
        let mut state = self.lock();
        let last = state.graph_execs.get(&handle).and_then(|e| e.last.clone());
        let submitted = nodes
            .iter()
            .zip(work)
            .map(|(node, work)| GraphNode {
                work: work.map(|work| Work {
                    priority: priority.unwrap_or(work.priority),
                    ..work
                }),
                effect: self.effect(&node.action),
                after: node.after.clone(),
                waits: match *node.action {
                    Action::Wait(event) => state.mark_of(event).into_iter().collect(),
                    _ => Vec::new(),
                },
            })
            .collect();
        let last: Vec<&Mark> = last.iter().collect();
        let GraphRun { nodes: run, end } = state.timeline.submit_graph(of, submitted, &last);
        if let Some(exec) = state.graph_execs.get_mut(&handle) {
            exec.last = Some(end);
        }
        let (mut now, mut next) = (Vec::new(), Vec::new());
        for (node, (end, held)) in nodes.iter().zip(run) {
            if let Action::Record(event) = *node.action {
                state.set_mark(event, end);
            }
            match held {
                None => now.push(node),
                Some(held) => {
                    state.hold(&held, of.device, Arc::clone(&node.action));
                    next.extend(held.is_next.then_some(held.op));
                }
            }
        }
        drop(state);
        for node in now {
            // Freed memory is a fault of the work, not of the call.
            if self.perform(&node.action, None).is_err() {
                self.fault(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
                break;
            }
        }
        // They may follow what was done above, though never the other way round.
        self.start(&mut self.lock(), next);
        Ok(())
    }

    /// Checks that everything the graph was made of still exists. A real driver may crash instead.
    fn can_run(&self, state: &State, action: &Action) -> Answer {
        match action {
            Action::Kernel(kernel) => {
                self.function(state, kernel.function)?;
                match kernel.context {
                    Context::Green(handle) => self.green(state, handle).map(drop),
                    Context::Primary(device) => self.present(device),
                }
            }
            Action::Record(event) | Action::Wait(event) => self.event(state, *event).map(drop),
            _ => Ok(()),
        }
    }
}
