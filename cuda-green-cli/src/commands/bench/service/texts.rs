//! The texts of requests, and the lists of the bulk lane.

use anyhow::ensure;

use crate::commands::bench::embed::setup::Setup;

/// The tokens that a query should have.
const TOKENS: usize = 14;
/// The queries, which requests take in turn.
const QUERIES: usize = 512;
/// The texts of the file that are looked at.
const LOOKED_AT: usize = 20_000;
/// The lists, which the bulk flood takes in turn.
const LISTS: usize = 16;

pub struct Texts {
    pub queries: Vec<String>,
    /// The mean.
    pub tokens_of_query: f64,
    /// Tokenised before.
    pub lists: Vec<Vec<Vec<u32>>>,
    /// The mean.
    pub tokens_of_list_text: f64,
}

impl Texts {
    /// Takes the texts that are nearest to [`TOKENS`] tokens for queries, and lists of the first texts as they come, each
    /// of about one full batch.
    pub fn new(setup: &Setup<'_>, batch_tokens: usize) -> anyhow::Result<Self> {
        let looked_at = &setup.texts[..setup.texts.len().min(LOOKED_AT)];
        let mut tokenised = Vec::with_capacity(looked_at.len());
        for text in looked_at {
            tokenised.push((text, setup.tokenizer.encode(text)?));
        }
        let all: Vec<_> = tokenised.iter().map(|(_, tokens)| tokens.clone()).collect();
        let lists = lists(all, batch_tokens);
        ensure!(!lists.is_empty(), "the file of texts is empty");
        tokenised.sort_by_key(|(_, tokens)| tokens.len().abs_diff(TOKENS));
        tokenised.truncate(QUERIES);
        Ok(Self {
            tokens_of_query: mean(tokenised.iter().map(|(_, tokens)| tokens.len())),
            queries: tokenised
                .into_iter()
                .map(|(text, _)| text.clone())
                .collect(),
            tokens_of_list_text: mean(lists.iter().flatten().map(Vec::len)),
            lists,
        })
    }
}

/// Returns lists of about so many tokens, the last of which may have fewer.
fn lists(texts: Vec<Vec<u32>>, tokens: usize) -> Vec<Vec<Vec<u32>>> {
    let mut lists: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut left = 0;
    for text in texts {
        if text.len() > left {
            if lists.len() == LISTS {
                break;
            }
            lists.push(Vec::new());
            left = tokens.max(text.len());
        }
        left -= text.len();
        if let Some(list) = lists.last_mut() {
            list.push(text);
        }
    }
    lists
}

fn mean(lengths: impl Iterator<Item = usize>) -> f64 {
    let (mut sum, mut count) = (0, 0);
    for length in lengths {
        sum += length;
        count += 1;
    }
    sum as f64 / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_long_as_a_batch_has_room_for() {
        let texts = |lengths: &[usize]| lengths.iter().map(|length| vec![0; *length]).collect();
        let sizes = |lengths: &[usize]| -> Vec<Vec<usize>> {
            let lists = lists(texts(lengths), 10);
            let sizes = lists.iter().map(|list| list.iter().map(Vec::len).collect());
            sizes.collect()
        };
        assert_eq!(
            sizes(&[4, 6, 1, 12, 9, 2]),
            [vec![4, 6], vec![1], vec![12], vec![9], vec![2]]
        );
        assert_eq!(sizes(&[10; 100]).len(), LISTS);
        assert!(sizes(&[]).is_empty());
    }
}
