//! Texts to tokens.

use cuda_green_embed::{Error, ModelFolder, PackedBatch, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{SmallModel, glosses, mini_lm, tokenizer_json};

const CLS: u32 = 2;
const SEP: u32 = 3;
const UNKNOWN: u32 = 1;

/// Returns the small model's tokeniser.
fn small(max_length: usize) -> Tokenizer {
    let model = SmallModel::new();
    Tokenizer::from_file(model.path().join("tokenizer.json"), max_length).unwrap()
}

/// Returns the ids of a text without the special ones around them.
fn own(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (CLS, SEP));
    ids[1..ids.len() - 1].to_vec()
}

#[test]
fn padding_and_truncation_of_the_file_are_overridden() {
    let file = tokenizer_json();
    assert_eq!(file["truncation"]["max_length"], 4);
    assert_eq!(file["padding"]["strategy"]["Fixed"], 4);
    let tokenizer = small(12);
    assert_eq!(tokenizer.encode("").unwrap(), [CLS, SEP]);
    assert_eq!(tokenizer.encode("a").unwrap(), [CLS, 5, SEP]);
    assert_eq!(own(&tokenizer, "a b ab a b").len(), 6);
    let shorter = tokenizer.with_max_length(4);
    assert_eq!(shorter.encode("a b ab a b").unwrap(), [CLS, 5, 6, SEP]);
    assert_eq!(shorter.with_max_length(0).max_length(), 3);
}

#[test]
fn the_tokeniser_of_a_folder_follows_its_files() {
    let model = SmallModel::new();
    let folder = ModelFolder::open(model.path()).unwrap();
    let tokenizer = folder.tokenizer().unwrap();
    assert_eq!(tokenizer.max_length(), 10);
    assert_eq!(tokenizer.vocabulary(), model.config.vocabulary);
    assert_eq!(tokenizer.encode(&"a ".repeat(1000)).unwrap().len(), 10);
    let mut file = tokenizer_json();
    file["normalizer"]["lowercase"] = json!(false);
    model.write("tokenizer.json", &file);
    assert_eq!(own(&folder.tokenizer().unwrap(), "A"), [UNKNOWN]);
    model.write("sentence_bert_config.json", &json!({"do_lower_case": true}));
    let folder = ModelFolder::open(model.path()).unwrap();
    assert_eq!(own(&folder.tokenizer().unwrap(), "A"), [5]);
}

#[test]
fn a_prompt_is_put_before_each_text() {
    let tokenizer = small(12).with_prompt("b ");
    assert_eq!(tokenizer.prompt(), "b ");
    assert_eq!(own(&tokenizer, "a"), [6, 5]);
    let mut batch = PackedBatch::new();
    tokenizer.encode_into(&mut batch, ["a", "", "b"]).unwrap();
    let texts = [
        vec![CLS, 6, 5, SEP],
        vec![CLS, 6, SEP],
        vec![CLS, 6, 6, SEP],
    ];
    assert_eq!(batch, PackedBatch::from_iter(texts));
}

#[test]
fn files_that_are_no_bert_tokeniser_are_refused() {
    let model = SmallModel::new();
    let path = model.path().join("tokenizer.json");
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut file = tokenizer_json();
        change(&mut file);
        model.write("tokenizer.json", &file);
        let folder = ModelFolder::open(model.path()).unwrap();
        let text = folder.tokenizer().unwrap_err().to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        text
    };
    for (part, value, found) in [
        (
            "/model/type",
            json!("BPE"),
            "`BPE` is not supported; supported: `WordPiece`",
        ),
        ("/model/vocab", json!(3), "`model.vocab` is missing"),
        ("/model/vocab/a", json!(u32::MAX), "found 4294967295"),
        ("/model/vocab/a", json!(-1), "found -1"),
        (
            "/model/vocab/a",
            json!(16),
            "go to 16, but config.json says 16 tokens",
        ),
        (
            "/added_tokens/0/id",
            json!(1u64 << 40),
            "found 1099511627776",
        ),
        ("/post_processor", json!(null), "[CLS] and [SEP]"),
        ("/normalizer", json!({"type": "Unheard"}), ""),
        ("/model", json!([]), ""),
    ] {
        let text = refusal(&|file| *file.pointer_mut(part).unwrap() = value.clone());
        assert!(text.contains(found), "{part}: {text}");
    }
    assert!(refusal(&|file| *file = json!([1])).contains("model.vocab"));
    model.remove("tokenizer.json");
    let missing = Tokenizer::from_file(&path, 10).unwrap_err().to_string();
    assert!(missing.ends_with("there is no such file"), "{missing}");
    model.write("tokenizer.json", &tokenizer_json());
    let short = Tokenizer::from_file(&path, 2).unwrap_err().to_string();
    assert!(short.contains("no place"), "{short}");
}

#[test]
fn hostile_texts_are_tokenised_as_bert_does() {
    let tokenizer = small(10_000);
    let word_of_101 = "a".repeat(101);
    for (text, ids) in [
        ("", &[] as &[u32]),
        (" \t\r\n\u{3000}\u{a0}", &[]),
        ("\0", &[]),
        ("a\0b", &[5, 8]),
        ("\u{fffd}\u{200b}\u{ad}\u{feff}\u{202e}\u{85}", &[]),
        ("a\u{200d}b", &[5, 8]),
        ("á", &[5]),
        ("a\u{301}\u{302}b", &[5, 8]),
        ("\u{301}", &[]),
        ("\u{301} a", &[5]),
        ("中a中", &[10, 5, 10]),
        ("A!", &[5, 9]),
        ("🙂", &[UNKNOWN]),
        ("שלום", &[UNKNOWN]),
        ("[MASK]a", &[4, 5]),
        ("[CLS] [SEP]", &[CLS, SEP]),
        ("[cls]", &[UNKNOWN, UNKNOWN, UNKNOWN]),
        (&word_of_101, &[UNKNOWN]),
    ] {
        assert_eq!(own(&tokenizer, text), ids, "{text:?}");
    }
    assert_eq!(own(&tokenizer, &word_of_101[1..]).len(), 100);
    assert_eq!(
        tokenizer.encode(&"a ".repeat(10_001)).unwrap().len(),
        10_000
    );
    assert_eq!(own(&tokenizer, &"a".repeat(1 << 20)), [UNKNOWN]);
}

#[test]
fn an_unknown_word_without_a_token_for_it_is_an_error_that_names_the_text() {
    let model = SmallModel::new();
    let mut file = tokenizer_json();
    file["model"]["unk_token"] = json!("[NONE]");
    model.write("tokenizer.json", &file);
    let tokenizer = Tokenizer::from_file(model.path().join("tokenizer.json"), 10).unwrap();
    let mut texts = vec!["a"; 300];
    texts[170] = "x";
    texts[290] = "x";
    for threads in [1, 3] {
        match tokenizer.encode_batch(&texts, threads) {
            Err(Error::Tokenize { text: 170, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut batch = PackedBatch::new();
    assert!(tokenizer.encode_into(&mut batch, &texts).is_err());
    assert_eq!(batch.texts(), 170);
}

/// Pieces of texts: words, what ends them, and what vanishes.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[abx]{1,3}",
        4 => Just(" ".to_owned()),
        1 => prop::sample::select(vec![
            "\t", "\r\n", "\u{85}", "\u{a0}", "\u{3000}", "\u{301}", "\u{200d}", "\0", "!", "中", "豈", "か",
            "[MASK]", "[MASK", "ß", "İ", "Σ", "🙂", "\u{1c}", "\u{2028}", "א",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..200).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn cutting_before_tokenising_changes_no_token(text in hostile_text(), most in 1usize..8) {
        let whole = small(1 << 20);
        let all = own(&whole, &text);
        let cut = own(&whole.clone().with_max_length(most + 2), &text);
        prop_assert_eq!(&cut, &all[..all.len().min(most)]);
        let lower = whole.with_lowercase(true);
        let all = own(&lower, &text);
        let cut = own(&lower.with_max_length(most + 2), &text);
        prop_assert_eq!(&cut, &all[..all.len().min(most)]);
    }

    #[test]
    fn threads_change_neither_ids_nor_order(
        texts in prop::collection::vec("[ab !]{0,6}", 0..400),
        threads in 0usize..6,
    ) {
        let tokenizer = small(12);
        let one_by_one: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        let batch = tokenizer.encode_batch(&texts, threads).unwrap();
        prop_assert_eq!(batch, PackedBatch::from_iter(one_by_one));
    }

    #[test]
    fn a_damaged_tokeniser_is_an_error_or_still_one(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        inserted in prop::option::of((any::<prop::sample::Index>(), "[0-9\\]\\[{}\",:-]{1,20}")),
    ) {
        let model = SmallModel::new();
        let mut content = tokenizer_json().to_string().into_bytes();
        for (place, value) in changes {
            let place = place.index(content.len());
            content[place] = value;
        }
        if let Some((place, text)) = inserted {
            let place = place.index(content.len());
            content.splice(place..place, text.bytes());
        }
        model.write_bytes("tokenizer.json", &content);
        match Tokenizer::from_file(model.path().join("tokenizer.json"), 10) {
            Ok(tokenizer) => {
                let _ = tokenizer.encode("a b [MASK] 中 !x");
            }
            Err(Error::File { .. } | Error::UnsupportedModel { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn mini_lm_tokenises_as_hugging_face_does() {
    let Some(path) = mini_lm() else { return };
    let tokenizer = ModelFolder::open(path).unwrap().tokenizer().unwrap();
    assert_eq!(tokenizer.vocabulary(), 30522);
    // From transformers' BertTokenizer.
    let ids = tokenizer.encode("A man is eating food.").unwrap();
    assert_eq!(ids, [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]);
    let long = "word ".repeat(10_000);
    assert_eq!(tokenizer.encode(&long).unwrap().len(), 256);
}

/// Tokenises as the release before does, through its own reading of the file.
struct Release023(tokenizers_0_23::Tokenizer);

impl Release023 {
    fn open(path: &std::path::Path, max_length: usize) -> Self {
        let mut tokenizer = tokenizers_0_23::Tokenizer::from_file(path).unwrap();
        let truncation = tokenizers_0_23::TruncationParams {
            max_length,
            ..Default::default()
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).unwrap();
        Self(tokenizer)
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.0.encode_fast(text, true).unwrap().get_ids().to_vec()
    }
}

/// The 143 characters, as ranges, that release 0.23 splits words at and 1.0 does not, or the other way round: punctuation
/// that Unicode has had since after version 8, which the tables of 0.23 follow, and two that are no punctuation any more.
#[rustfmt::skip]
const LATER_PUNCTUATION: [(u32, u32); 42] = [
    (0x61d, 0x61d), (0x9fd, 0x9fd), (0xa76, 0xa76), (0xc77, 0xc77), (0xc84, 0xc84), (0x166d, 0x166d), (0x1b4e, 0x1b4f), (0x1b7d, 0x1b7f), (0x2e43, 0x2e4f), (0x2e52, 0x2e5d), (0x10d6e, 0x10d6e), (0x10ead, 0x10ead), (0x10ed0, 0x10ed0), (0x10f55, 0x10f59), (0x10f86, 0x10f89), (0x111c9, 0x111c9), (0x113d4, 0x113d5), (0x113d7, 0x113d8), (0x1144b, 0x1144f), (0x1145a, 0x1145b), (0x1145d, 0x1145d), (0x11660, 0x1166c), (0x116b9, 0x116b9), (0x1183b, 0x1183b), (0x11944, 0x11946), (0x119e2, 0x119e2), (0x11a3f, 0x11a46), (0x11a9a, 0x11a9c), (0x11a9e, 0x11aa2), (0x11b00, 0x11b09), (0x11be1, 0x11be1), (0x11c41, 0x11c45), (0x11c70, 0x11c71), (0x11ef7, 0x11ef8), (0x11f43, 0x11f4f), (0x11fff, 0x11fff), (0x12ff1, 0x12ff2), (0x16d6d, 0x16d6f), (0x16e97, 0x16e9a), (0x16fe2, 0x16fe2), (0x1e5ff, 0x1e5ff), (0x1e95e, 0x1e95f),
];

fn is_later_punctuation(character: char) -> bool {
    let character = u32::from(character);
    LATER_PUNCTUATION
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&character))
}

/// Returns texts that have been trouble to tokenisers.
fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\0",
        "a\0b",
        "\u{fffd}",
        "🙂👨\u{200d}👩\u{200d}👧",
        "שלום עולם",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "สวัสดีชาวโลก",
        "こんにちは世界",
        "안녕하세요",
        "豈更車",
        "e\u{301}\u{302}\u{303}",
        "\u{301}",
        "ﬁ ﬂ ẞ İ ı Σας",
        "[CLS] [SEP] [MASK] [PAD] [UNK]",
        "[mask]",
        "[MASK",
        "[ MASK ]",
        "##ing",
        "\u{202e}abc\u{202c}",
        "a\u{85}b\u{2028}c\u{2029}d\u{1c}e",
        "\u{e000}\u{f8ff}\u{10ffff}",
        "𝕳𝖊𝖑𝖑𝖔",
        "½ ² ① ㍿",
        "don't—won’t…«»",
        "https://example.org/?q=1&r=%20#x",
        "a@b.c",
        "1,234,567.89",
        "\u{1f1e9}\u{1f1ea}",
        "\u{ad}soft\u{ad}",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("word ".repeat(10_000));
    texts.push("x".repeat(100_000));
    texts.push("a-".repeat(5_000));
    texts.push("世界".repeat(5_000));
    texts.push("a\u{301}".repeat(5_000));
    texts.push(" ".repeat(100_000) + "end");
    texts.push("\u{200b}".repeat(10_000) + " end");
    texts.extend((99..=102).map(|length| "a".repeat(length)));
    // Every character of the first two planes, between letters and in a run.
    let characters = ('\0'..='\u{1ffff}').filter(|character| !is_later_punctuation(*character));
    let characters: Vec<char> = characters.collect();
    for block in characters.chunks(64) {
        texts.push(String::from_iter(block));
        texts.push(
            block
                .iter()
                .flat_map(|character| ['a', *character, 'b', ' '])
                .collect(),
        );
    }
    texts
}

/// Compares with release 0.23, whose reading of the file and whose steps are other code.
fn compare_with_release_0_23(texts: &[String]) {
    let Some(path) = mini_lm() else { return };
    let tokenizer = ModelFolder::open(&path).unwrap().tokenizer().unwrap();
    let other = Release023::open(&path.join("tokenizer.json"), 256);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let batch = tokenizer.encode_batch(texts, threads).unwrap();
    std::thread::scope(|scope| {
        let part = texts.len().div_ceil(threads).max(1);
        for (index, texts) in texts.chunks(part).enumerate() {
            let (batch, other) = (&batch, &other);
            scope.spawn(move || {
                for (text, string) in texts.iter().enumerate() {
                    let ids = batch.text(index * part + text).unwrap();
                    assert_eq!(ids, other.encode(string), "{string:?}");
                }
            });
        }
    });
}

#[test]
fn hostile_texts_have_the_ids_of_release_0_23() {
    compare_with_release_0_23(&hostile_texts());
}

#[test]
fn punctuation_of_later_unicode_is_all_that_differs_from_release_0_23() {
    let Some(path) = mini_lm() else { return };
    let tokenizer = ModelFolder::open(&path).unwrap().tokenizer().unwrap();
    let other = Release023::open(&path.join("tokenizer.json"), 256);
    let characters = ('\0'..=char::MAX).filter(|character| is_later_punctuation(*character));
    for character in characters {
        // A mark that is no punctuation is taken off.
        let text = format!("a{character}b");
        assert_ne!(
            tokenizer.encode(&text).unwrap(),
            other.encode(&text),
            "{text}"
        );
    }
}

#[test]
fn some_glosses_have_the_ids_of_release_0_23() {
    let Some(glosses) = glosses() else { return };
    assert_eq!(glosses.len(), 117_659);
    let some: Vec<_> = glosses.into_iter().step_by(20).collect();
    compare_with_release_0_23(&some);
}

#[test]
#[ignore = "half a minute; `cargo xtask test` runs it"]
fn all_glosses_have_the_ids_of_release_0_23() {
    let Some(glosses) = glosses() else { return };
    compare_with_release_0_23(&glosses);
}

#[test]
#[ignore = "a measurement: `cargo test --release -- --ignored --nocapture`"]
fn texts_a_second() {
    let (Some(path), Some(glosses)) = (mini_lm(), glosses()) else {
        return;
    };
    let folder = ModelFolder::open(&path).unwrap();
    let start = std::time::Instant::now();
    let tokenizer = folder.tokenizer().unwrap();
    eprintln!("read in {:?}", start.elapsed());
    let rate = |name: &str, texts: usize, encode: &dyn Fn() -> usize| {
        let start = std::time::Instant::now();
        let tokens = encode();
        let rate = texts as f64 / start.elapsed().as_secs_f64();
        eprintln!("{name}: {rate:.0} texts/s, {tokens} tokens");
    };
    for threads in [1, 1, 2, 2] {
        rate(&format!("{threads} threads"), glosses.len(), &|| {
            tokenizer.encode_batch(&glosses, threads).unwrap().tokens()
        });
    }
    let other = Release023::open(&path.join("tokenizer.json"), 256);
    let some = &glosses[..20_000];
    rate("release 0.23, 1 thread", some.len(), &|| {
        some.iter().map(|text| other.encode(text).len()).sum()
    });
}
