//! Elastic lanes with the GPU's encoder, on the simulated driver.

use std::{sync::Arc, time::Duration};

use cuda_green::{
    CUresult, ContextId, Driver, SmPartitionManager,
    sim::{Injection, Sim},
};
use cuda_green_embed::{
    CpuEncoder, ElasticOptions, ElasticStatus, Embedder, EmbedderBuilder, Error, LaneLayout, Result,
};

use super::{
    gpu::{assert_close, expected, service_in},
    until,
};
use crate::fake_encoder::ends;

/// An hour without queries never comes, but for the time before the first.
fn elastic() -> EmbedderBuilder {
    let options = ElasticOptions::default().idle_after(Duration::from_secs(3600));
    Embedder::builder().elastic(options)
}

fn manager(simulator: &Sim) -> Arc<SmPartitionManager> {
    let device = Driver::simulated(simulator).unwrap().device(0).unwrap();
    Arc::new(SmPartitionManager::on(&device).unwrap())
}

fn figures(embedder: &Embedder) -> ElasticStatus {
    embedder.status().elastic.unwrap()
}

/// Returns the lanes' SMs.
fn sms(embedder: &Embedder) -> [u32; 2] {
    let status = embedder.status();
    [status.interactive.sms.unwrap(), status.bulk.sms.unwrap()]
}

fn until_is(embedder: &Embedder, layout: LaneLayout) {
    until("the layout changes", || figures(embedder).layout == layout);
}

fn list(texts: u32) -> Vec<Vec<u32>> {
    (0..texts)
        .map(|n| (n % 70..n % 70 + 1 + n % 9).collect())
        .collect()
}

fn embed_bulk(embedder: &Embedder, reference: &CpuEncoder) {
    let list = list(50);
    let vectors = embedder.bulk().embed_token_batch(&list).wait().unwrap();
    for (tokens, vector) in list.iter().zip(vectors) {
        assert_close(&vector.unwrap(), &expected(reference, tokens));
    }
}

/// A list may end before the layout's thread has seen it.
fn embed_bulk_until_wide(embedder: &Embedder, reference: &CpuEncoder) {
    until("the layout is wide", || {
        embed_bulk(embedder, reference);
        figures(embedder).layout == LaneLayout::Wide
    });
}

fn query(embedder: &Embedder, reference: &CpuEncoder) {
    let vector = embedder.embed_tokens(vec![5, 6, 7]).wait().unwrap();
    assert_close(&vector, &expected(reference, &[5, 6, 7]));
}

#[test]
fn bulk_work_has_the_gpu_until_a_query_comes() {
    for driver in ["h200@12.8", "h200@13.0", "h200@13.1", "h200@newest"] {
        let simulator = Sim::new(driver).unwrap();
        let manager = manager(&simulator);
        let (embedder, reference) = service_in(&manager, elastic()).unwrap();
        let fixed = sms(&embedder);
        assert_eq!(fixed.iter().sum::<u32>(), 132, "{driver}");
        let made = manager.allocation_status().green_contexts;
        embed_bulk_until_wide(&embedder, &reference);
        assert_eq!(sms(&embedder), [8, 124], "{driver}");
        embed_bulk(&embedder, &reference);
        query(&embedder, &reference);
        until_is(&embedder, LaneLayout::Fixed);
        assert_eq!(sms(&embedder), fixed, "{driver}");
        query(&embedder, &reference);
        embed_bulk(&embedder, &reference);
        assert_eq!(figures(&embedder).rebalances, 2);
        // All was there beforehand.
        assert_eq!(manager.allocation_status().green_contexts, made, "{driver}");
        embedder.shutdown();
    }
}

#[test]
fn the_others_of_a_quad_partition_keep_their_sms() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let manager = manager(&simulator);
    manager.init_quad_partition().unwrap();
    let others = [ContextId::Training, ContextId::Reserved];
    let of_others = || others.map(|id| manager.get_context(id).unwrap().sm_count());
    let before = of_others();
    let (embedder, reference) = service_in(&manager, elastic()).unwrap();
    embed_bulk_until_wide(&embedder, &reference);
    assert_eq!(sms(&embedder), [8, 56]);
    assert_eq!(of_others(), before);
    query(&embedder, &reference);
    until_is(&embedder, LaneLayout::Fixed);
    assert_eq!(sms(&embedder), [32, 32]);
    assert_eq!(of_others(), before);
    embed_bulk(&embedder, &reference);
    // The layout is that of the begin afterwards, whatever it was.
    drop(embedder);
    assert_eq!(
        manager
            .get_context(ContextId::Embedding)
            .unwrap()
            .sm_count(),
        32
    );
}

#[test]
fn where_sms_cannot_change_hands_the_lanes_are_not_elastic_and_say_so() {
    for (driver, reason) in [("h200@12.2", "12.4"), ("h200@12.4", "12.5")] {
        let simulator = Sim::new(driver).unwrap();
        let (embedder, reference) = service_in(&manager(&simulator), elastic()).unwrap();
        embed_bulk(&embedder, &reference);
        query(&embedder, &reference);
        let status = figures(&embedder);
        assert!(
            status.off.as_ref().unwrap().contains(reason),
            "{driver}: {status}"
        );
        assert_eq!((status.layout, status.rebalances), (LaneLayout::Fixed, 0));
        assert!(embedder.status().to_string().contains("\nnot elastic: "));
    }
    // An interactive lane that keeps all it has.
    let simulator = Sim::new("h200@13.0").unwrap();
    let options = ElasticOptions::default().keep_sms(32);
    let builder = Embedder::builder().elastic(options);
    let (embedder, _) = service_in(&manager(&simulator), builder).unwrap();
    let reason = figures(&embedder).off.unwrap();
    assert!(reason.contains("no SMs to lend: it keeps 32"), "{reason}");
}

/// What callers do while the layout changes twice.
fn use_it(embedder: &Embedder, reference: &CpuEncoder) -> Result<()> {
    let list = list(20);
    let flood = embedder.bulk().embed_token_batch(&list);
    for _ in 0..2 {
        let vector = embedder.embed_tokens(vec![5, 6, 7]).wait()?;
        assert_close(&vector, &expected(reference, &[5, 6, 7]));
    }
    for (tokens, vector) in list.iter().zip(flood.wait()?) {
        assert_close(&vector?, &expected(reference, tokens));
    }
    Ok(())
}

#[test]
fn each_driver_call_that_fails_leaves_the_service_at_work_or_dead() {
    let build = || {
        let simulator = Sim::new("h200@13.0").unwrap();
        // Without any time between queries, the layout changes as often as it can.
        let options = ElasticOptions::default().idle_after(Duration::ZERO);
        let builder = Embedder::builder().elastic(options);
        let (embedder, reference) = service_in(&manager(&simulator), builder).unwrap();
        (simulator, embedder, reference)
    };
    let (mut simulator, mut embedder, mut reference) = build();
    let mut failed = 0;
    for nth in 1..120 {
        let code = match nth % 2 {
            0 => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            _ => CUresult::CUDA_ERROR_UNKNOWN,
        };
        simulator.fail("*", nth, code).unwrap();
        let before = figures(&embedder).failed;
        let (told, back) = ends(move || {
            let told = use_it(&embedder, &reference);
            (told, (embedder, reference))
        });
        (embedder, reference) = back;
        simulator.clear_injections();
        failed += figures(&embedder).failed - before;
        match (told, embedder.death()) {
            (Err(_), Some(_)) => {
                let flood = embedder.bulk().embed_tokens(vec![1]).wait();
                assert!(matches!(flood, Err(Error::ServiceDead { .. })));
                ends(move || drop(embedder));
                (simulator, embedder, reference) = build();
            }
            // The call's own texts may fail, and no later ones.
            (_, None) => use_it(&embedder, &reference).unwrap(),
            (Ok(()), Some(error)) => panic!("dead, and nobody knows: {error}"),
        }
    }
    assert!(failed > 0, "no change of the layout failed");
    // A lost device is the end in any layout.
    simulator.inject(Injection::lose_device(0));
    let lost = ends(move || {
        let told = use_it(&embedder, &reference);
        drop(embedder);
        told
    });
    assert!(matches!(lost, Err(Error::ServiceDead { .. })), "{lost:?}");
}
