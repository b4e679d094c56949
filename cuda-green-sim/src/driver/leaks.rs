//! The live objects of a driver, with the calls that made them.

use super::Driver;
use crate::leaks::{self, LiveObject, LiveObjects, MadeAt};

impl Driver {
    pub(crate) fn live_objects(&self) -> LiveObjects {
        let state = self.lock();
        let memory = self.memory();
        let mut objects = Vec::new();
        let mut add = |kind, made: &mut dyn Iterator<Item = MadeAt>| {
            objects.extend(made.map(|made_at| LiveObject { kind, made_at }));
        };
        // Objects on a lost device are gone with it.
        let there = |device: usize| self.present(device).is_ok();
        let devices = state.devices.iter().enumerate();
        let retains = devices.filter(|(index, _)| there(*index));
        let retains = retains.flat_map(|(_, device)| &device.retains);
        add(leaks::RETAIN, &mut retains.copied());
        let greens = state.greens.values().filter(|g| there(g.device));
        add(leaks::GREEN, &mut greens.map(|green| green.made_at));
        let streams = state.streams.values().filter(|s| there(s.device));
        add(leaks::STREAM, &mut streams.map(|stream| stream.made_at));
        let events = state.events.values().filter(|e| there(e.device));
        add(leaks::EVENT, &mut events.map(|event| event.made_at));
        let modules = state.modules.values().filter(|m| there(m.device));
        let modules = modules.filter(|module| module.library.is_none());
        add(leaks::MODULE, &mut modules.map(|module| module.made_at));
        add(
            leaks::LIBRARY,
            &mut state.libraries.values().map(|library| library.made_at),
        );
        add(
            leaks::LINK,
            &mut state.links.values().map(|link| link.made_at),
        );
        add(
            leaks::GRAPH,
            &mut state.graphs.values().map(|graph| graph.made_at),
        );
        add(
            leaks::GRAPH_EXEC,
            &mut state.graph_execs.values().map(|exec| exec.made_at),
        );
        add(leaks::ABANDONED, &mut state.abandoned.iter().copied());
        memory.each_live(&there, &mut |kind, made_at| {
            objects.push(LiveObject { kind, made_at });
        });
        LiveObjects::of(objects, memory.live_bytes(&there))
    }
}
