//! Reading of `tokenizer.json`.

use std::path::Path;

use serde_json::Value;
use tokenizers::{
    canonicalize_value, from_json,
    pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer},
};

use super::{Cut, Tokenizer, own_tokens};
use crate::{
    error::{Error, Result},
    model::json::{self, JsonFile},
};

/// Far more tokens than any vocabulary has. The tokeniser makes a table as long as the largest id.
const MOST_TOKENS: u64 = 1 << 24;

pub(super) fn read(path: &Path, max_length: usize) -> Result<Tokenizer> {
    let mut file = JsonFile::read(path.to_owned())?.into_value();
    let refuse = |reason: String| json::error(path, reason);
    let kind = |part: &str| file[part]["type"].as_str();
    // The oldest files do not say.
    let model = kind("model").unwrap_or("WordPiece");
    if model != "WordPiece" {
        return Err(Error::UnsupportedModel {
            path: path.to_owned(),
            property: "the tokeniser's model",
            found: model.to_owned(),
            supported: "`WordPiece`",
        });
    }
    let is_bert = kind("normalizer") == Some("BertNormalizer")
        && kind("pre_tokenizer") == Some("BertPreTokenizer");
    let at_spaces = is_bert && added_tokens_are_words(&file);
    let cut = Cut {
        at_spaces,
        at_chinese: at_spaces && file["normalizer"]["handle_chinese_chars"] == true,
    };
    let vocabulary = vocabulary(&file).map_err(refuse)?;

    // The reader takes the present form of the file alone.
    canonicalize_value(&mut file).map_err(|failure| refuse(failure.to_string()))?;
    let pipeline = from_json(&file.to_string()).map_err(|failure| refuse(failure.to_string()))?;
    let (before, after) = special_tokens(&pipeline).map_err(refuse)?;
    let special = before.len() + after.len();
    if max_length <= special {
        return Err(refuse(format!(
            "texts of {max_length} tokens have no place beside the {special} special ones"
        )));
    }
    Ok(Tokenizer {
        pipeline,
        options: own_tokens(),
        before: before.into(),
        after: after.into(),
        max_length,
        vocabulary,
        cut,
        lowercase: false,
        prompt: "".into(),
    })
}

/// Returns one more than the largest id.
fn vocabulary(file: &Value) -> Result<usize, String> {
    let vocabulary = file["model"]["vocab"].as_object();
    let vocabulary = vocabulary.ok_or("`model.vocab` is missing, or is not an object")?;
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let ids = vocabulary.values().chain(added.map(|token| &token["id"]));
    let mut end = 0;
    for id in ids {
        match id.as_u64() {
            Some(id) if id < MOST_TOKENS => end = end.max(id as usize + 1),
            _ => {
                return Err(format!(
                    "expected an id from 0 to {}, found {id}",
                    MOST_TOKENS - 1
                ));
            }
        }
    }
    Ok(end)
}

/// Returns whether no added token can span two words, so that a cut between words does not cut one.
fn added_tokens_are_words(file: &Value) -> bool {
    let mut added = file["added_tokens"].as_array().into_iter().flatten();
    added.all(|token| {
        let content = token["content"].as_str().unwrap_or_default();
        content.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

/// Finds the special tokens before and after a text's own, by a text of one word.
fn special_tokens(pipeline: &PipelineTokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let encode = |add_special_tokens| {
        let options = EncodeOptions {
            add_special_tokens,
            ..own_tokens()
        };
        let mut tokens = Vec::new();
        let encoded = pipeline.encode_into("a", &options, &mut tokens);
        encoded.map_err(|failure| failure.to_string())?;
        Ok::<_, String>(PipelineToken::cast_slice(&tokens).to_vec())
    };
    let (own, whole) = (encode(false)?, encode(true)?);
    let place = whole.windows(own.len().max(1)).position(|part| part == own);
    match place {
        Some(place) if whole.len() > own.len() => {
            let after = whole[place + own.len()..].to_vec();
            Ok((whole[..place].to_vec(), after))
        }
        _ => Err("it puts no special tokens around a text, such as [CLS] and [SEP]".to_owned()),
    }
}
