//! Several threads that embed, poll and drop at random.

use std::thread;

use cuda_green_embed::{Error, Lane};
use proptest::{prelude::*, test_runner::Config};

use super::{
    block_on, eager,
    gated::{BATCH, GPU_IN_WAIT_ONCE, OVERFLOW, PANIC_IN_WAIT, UNKNOWN},
    poll, service,
    states::accounted,
    vector,
};

#[derive(Clone, Debug)]
enum Use {
    Wait,
    Await,
    Drop,
    PollAndDrop,
    PollAndWait,
    List(u32),
}

fn uses() -> impl Strategy<Value = Vec<(Use, bool, Option<u32>)>> {
    let one = prop_oneof![
        4 => Just(Use::Wait),
        4 => Just(Use::Await),
        1 => Just(Use::Drop),
        2 => Just(Use::PollAndDrop),
        2 => Just(Use::PollAndWait),
        2 => (1..40u32).prop_map(Use::List),
    ];
    let bad = [UNKNOWN, OVERFLOW, PANIC_IN_WAIT, BATCH, GPU_IN_WAIT_ONCE];
    let bad = prop::option::weighted(0.1, prop::sample::select(bad.to_vec()));
    prop::collection::vec((one, any::<bool>(), bad), 1..25)
}

/// Ensures that a text has its own vector, or an error that another text or it can be the reason for.
fn check(tokens: &[u32], result: Result<Vec<f32>, Error>) {
    match result {
        Ok(result) => assert_eq!(result, vector(tokens)),
        Err(Error::EncoderPanicked | Error::BatchFailed { .. }) => {}
        Err(Error::UnknownToken { .. }) => assert!(tokens.contains(&UNKNOWN)),
        Err(Error::Overflow { .. }) => assert!(tokens.contains(&OVERFLOW)),
        Err(Error::UnsupportedPrecision { .. }) => assert!(tokens.contains(&BATCH)),
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(Config { max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn nothing_is_lost_or_answered_with_another_s_vector(
        threads in prop::collection::vec(uses(), 1..5),
    ) {
        let (embedder, ..) = service(eager());
        let embedder = &embedder;
        thread::scope(|scope| {
            for (thread, uses) in (1..).zip(&threads) {
                scope.spawn(move || {
                    for (number, (how, is_bulk, bad)) in (1..).zip(uses) {
                        let lane = if *is_bulk { embedder.bulk() } else { embedder.interactive() };
                        let tokens: Vec<u32> = [thread, number].into_iter().chain(*bad).collect();
                        if let Use::List(length) = how {
                            let list: Vec<_> = (0..*length).map(|n| [thread, number, n]).collect();
                            for (tokens, result) in list.iter().zip(lane.embed_token_batch(&list).wait().unwrap()) {
                                check(tokens, result);
                            }
                            continue;
                        }
                        let mut future = lane.embed_tokens(tokens.clone());
                        match how {
                            Use::Wait => check(&tokens, future.wait()),
                            Use::Await => check(&tokens, block_on(future)),
                            Use::PollAndWait => match poll(&mut future) {
                                std::task::Poll::Ready(result) => check(&tokens, result),
                                std::task::Poll::Pending => check(&tokens, future.wait()),
                            },
                            Use::PollAndDrop => drop(poll(&mut future)),
                            Use::Drop | Use::List(_) => drop(future),
                        }
                    }
                });
            }
        });
        let mut texts = [0, 0];
        for (how, is_bulk, _) in threads.iter().flatten() {
            texts[usize::from(*is_bulk)] += match how {
                Use::List(length) => *length as usize,
                _ => 1,
            };
        }
        for (lane, texts) in Lane::ALL.into_iter().zip(texts) {
            super::until("each text is accounted for", || accounted(&embedder.status(), lane) == texts);
        }
    }
}
