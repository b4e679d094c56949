//! `cuda-green bench embed`: text embeddings of a model, from texts to vectors, and what bounds them.

mod accuracy;
mod bulk;
mod figures;
mod first;
mod one_text;
mod peers;
pub mod setup;
mod several_gpus;
mod shapes;

use crate::args::EmbedBench;

use super::run::Work;
pub use figures::EmbedFigures;
pub use first::first_vector;
use setup::Setup;

pub fn measure(work: &Work<'_>, options: &EmbedBench) -> anyhow::Result<EmbedFigures> {
    let peers = options.peers.as_deref().map(peers::read).transpose()?;
    work.progress.set_length(9);
    let step = |name: &'static str| {
        work.progress.set_message(name);
        work.progress.inc(1);
    };
    let setup = Setup::new(work, &options.source)?;
    step("first vector");
    let first_vector_s = first::measure(&setup, options)?;
    step("tokeniser");
    let tokeniser = bulk::tokeniser(&setup)?;
    step("all texts");
    let (bulk, memory) = bulk::end_to_end(&setup)?;
    step("pre-tokenised");
    let sorted = bulk::pretokenised(&setup)?;
    step("by SMs");
    let by_sms = bulk::by_sms(&setup)?;
    step("one text");
    let one_text = one_text::measure(&setup)?;
    step("BERT-base");
    let shapes = shapes::measure(&setup)?;
    step("several GPUs");
    let several_gpus = several_gpus::measure(&setup)?;
    step("accuracy");
    let accuracy = accuracy::measure(&setup)?;
    let mut figures = EmbedFigures {
        model: setup.describe(),
        bulk,
        sorted,
        by_sms,
        one_text,
        shapes,
        several_gpus,
        tokeniser,
        memory,
        first_vector_s,
        accuracy,
        to_peers: None,
    };
    if let (Some(peers), false) = (peers, work.device.driver().is_simulated()) {
        figures.to_peers = Some(peers::compare(&figures, &peers));
    }
    Ok(figures)
}
