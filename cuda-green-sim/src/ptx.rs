//! Reading of PTX: its version and target, its kernels, and the size of each of their parameters. Nothing is
//! compiled.

use std::collections::BTreeMap;

use cuda_green_sys::CudaVersion;

/// The most bytes that all parameters of a kernel may have (CUDA programming guide, from compute capability 7.0 on).
const MOST_PARAMETER_BYTES: usize = 32_764;

/// A loaded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ptx {
    /// The version of the PTX language.
    pub(crate) version: (u32, u32),
    /// The compute capability that it is for, as in `sm_90`.
    pub(crate) target: u32,
    /// The kernels, with the size of each parameter in bytes.
    pub(crate) kernels: BTreeMap<String, Vec<usize>>,
}

/// Returns the newest PTX version that a driver of this CUDA version compiles (NVIDIA's PTX release notes).
pub(crate) fn newest_version(cuda: CudaVersion) -> (u32, u32) {
    let minor = u32::from(cuda.minor());
    match (cuda.major(), minor) {
        (11, _) => (7, minor),
        (12, 0..=5) => (8, minor),
        (12, 6) => (8, 5),
        (12, _) => (8, minor - 1),
        (_, _) => (9, minor),
    }
}

/// Reads a text; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Ptx, String> {
    let tokens = tokens(text);
    let mut tokens = tokens.into_iter().peekable();
    if tokens.next() != Some(".version") {
        return Err("PTX must begin with .version".to_owned());
    }
    let version = tokens
        .next()
        .and_then(|version| version.split_once('.'))
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or("no version follows .version")?;
    if tokens.next() != Some(".target") {
        return Err(".target must follow .version".to_owned());
    }
    let target = tokens
        .next()
        .and_then(|target| target.strip_prefix("sm_"))
        .map(|target| target.trim_end_matches(|c: char| c.is_ascii_alphabetic()))
        .and_then(|target| target.parse().ok())
        .ok_or("no sm_<number> follows .target")?;
    let mut kernels = BTreeMap::new();
    let mut depth = 0_u32;
    // Whether the next token begins a statement inside a kernel or a function.
    let mut begins = false;
    while let Some(token) = tokens.next() {
        if token == "{" && depth > 0 && !begins {
            // Within a statement, it is a vector of operands: `ld.global.v2.f32 {%f1, %f2}, [%rd1];`
            tokens
                .find(|token| *token == "}")
                .ok_or("a { is never closed")?;
            continue;
        }
        if begins && depth > 0 {
            // The wording is that of NVIDIA's assembler, as in its log.
            check_instruction(token)
                .map_err(|error| format!("line {}; error: {error}", line_of(text, token)))?;
        }
        // After a label or a predicate, the instruction follows.
        begins = matches!(token, "{" | "}" | ";")
            || begins && (token.ends_with(':') || token.starts_with('@'));
        match token {
            "{" => depth += 1,
            "}" => depth = depth.checked_sub(1).ok_or("a } without its {")?,
            ".entry" => {
                let name = tokens.next().ok_or("no name follows .entry")?;
                let mut sizes = Vec::new();
                if tokens.next_if_eq(&"(").is_some() {
                    let inside: Vec<&str> = tokens.by_ref().take_while(|t| *t != ")").collect();
                    for parameter in inside.split(|token| *token == ",") {
                        if !parameter.is_empty() {
                            sizes.push(parameter_size(name, parameter)?);
                        }
                    }
                }
                if sizes.iter().sum::<usize>() > MOST_PARAMETER_BYTES {
                    return Err(format!(
                        "the parameters of {name} have more than {MOST_PARAMETER_BYTES} bytes"
                    ));
                }
                kernels.insert(name.to_owned(), sizes);
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a { is never closed".to_owned());
    }
    Ok(Ptx {
        version,
        target,
        kernels,
    })
}

/// The instructions of PTX, without their modifiers (NVIDIA's PTX manual, 9.0).
#[rustfmt::skip] // a list to be read as one
const INSTRUCTIONS: &[&str] = &[
    "abs", "activemask", "add", "addc", "alloca", "and", "applypriority", "atom", "bar", "barrier",
    "bfe", "bfi", "bfind", "bmsk", "bra", "brev", "brkpt", "brx", "call", "clusterlaunchcontrol",
    "clz", "cnot", "copysign", "cos", "cp", "createpolicy", "cvt", "cvta", "discard", "div", "dp2a",
    "dp4a", "elect", "ex2", "exit", "fence", "fma", "fns", "getctarank", "griddepcontrol", "isspacep",
    "istypep", "ld", "ldmatrix", "ldu", "lg2", "lop3", "mad", "mad24", "madc", "mapa", "match", "max",
    "mbarrier", "membar", "min", "mma", "mov", "movmatrix", "mul", "mul24", "multimem", "nanosleep",
    "neg", "not", "or", "pmevent", "popc", "prefetch", "prefetchu", "prmt", "rcp", "red", "redux",
    "rem", "ret", "rsqrt", "sad", "selp", "set", "setmaxnreg", "setp", "shf", "shfl", "shl", "shr",
    "sin", "slct", "sqrt", "st", "stackrestore", "stacksave", "stmatrix", "sub", "subc", "suld",
    "suq", "sured", "sust", "szext", "tanh", "tcgen05", "tensormap", "testp", "tex", "tld4", "trap",
    "txq", "vabsdiff", "vabsdiff2", "vabsdiff4", "vadd", "vadd2", "vadd4", "vavrg2", "vavrg4", "vmad",
    "vmax", "vmax2", "vmax4", "vmin", "vmin2", "vmin4", "vote", "vset", "vset2", "vset4", "vshl",
    "vshr", "vsub", "vsub2", "vsub4", "wgmma", "wmma", "xor",
];

/// Refuses a statement that does not begin with an instruction; the rest of it is not checked.
fn check_instruction(token: &str) -> Result<(), String> {
    let name = token.split('.').next().unwrap_or_default();
    // Directives, brackets, labels and predicates.
    let other = name.is_empty()
        || token.ends_with(':')
        || token.starts_with(['{', '}', '(', ')', '[', ']', ';', '@']);
    if other || INSTRUCTIONS.contains(&name) {
        Ok(())
    } else {
        Err(format!("{token} is not an instruction of PTX"))
    }
}

/// Returns the bytes of one `.param` declaration: those of its type, times the length of an array.
fn parameter_size(kernel: &str, tokens: &[&str]) -> Result<usize, String> {
    let wrong = || {
        format!(
            "a parameter of {kernel} is not understood: {}",
            tokens.join(" ")
        )
    };
    if tokens.first() != Some(&".param") {
        return Err(wrong());
    }
    let element = tokens
        .iter()
        .find_map(|token| match *token {
            ".u8" | ".s8" | ".b8" => Some(1),
            ".u16" | ".s16" | ".b16" | ".f16" | ".bf16" => Some(2),
            ".u32" | ".s32" | ".b32" | ".f32" | ".f16x2" | ".bf16x2" => Some(4),
            ".u64" | ".s64" | ".b64" | ".f64" => Some(8),
            ".b128" => Some(16),
            _ => None,
        })
        .ok_or_else(wrong)?;
    let length = match tokens.iter().position(|token| *token == "[") {
        Some(bracket) => tokens
            .get(bracket + 1)
            .and_then(|length| length.parse::<usize>().ok())
            .ok_or_else(wrong)?,
        None => 1,
    };
    length
        .checked_mul(element)
        .filter(|bytes| *bytes <= MOST_PARAMETER_BYTES)
        .ok_or_else(|| {
            format!(
                "a parameter of {kernel} is larger than the {MOST_PARAMETER_BYTES} bytes that a kernel may have"
            )
        })
}

/// Returns words and brackets, without comments and strings.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut word = None;
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let comment = match (c, rest.peek().map(|(_, next)| *next)) {
            ('/', Some('/')) => {
                for (_, c) in rest.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
                true
            }
            ('/', Some('*')) => {
                let mut before = ' ';
                rest.next();
                for (_, c) in rest.by_ref() {
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
                true
            }
            ('"', _) => {
                for (_, c) in rest.by_ref() {
                    if c == '"' {
                        break;
                    }
                }
                true
            }
            _ => false,
        };
        if !comment && !c.is_whitespace() && !",;(){}[]".contains(c) {
            word.get_or_insert(at);
            continue;
        }
        if let Some(start) = word.take() {
            tokens.push(&text[start..at]);
        }
        if !comment && !c.is_whitespace() {
            tokens.push(&text[at..at + c.len_utf8()]);
        }
    }
    tokens.extend(word.map(|start| &text[start..]));
    tokens
}

/// Returns the line number of a token in a text.
fn line_of(text: &str, token: &str) -> usize {
    let at = token.as_ptr() as usize - text.as_ptr() as usize;
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernels_and_parameter_sizes_are_found() {
        let ptx = parse(
            "// made by hand\n.version 8.4\n.target sm_90a, debug\n.address_size 64\n\
             /* .entry no( */ .visible .entry one(\n  .param .u64 .ptr .global .align 4 a,\n  .param .u32 b\n)\n\
             .reqntid 32 { ret; }\n.entry two() { .reg .pred p; { ret; } }\n.entry three { ret; }\n\
             .weak .entry four(.param .align 8 .b8 s[24], .param .f32 x) { ret; }",
        )
        .unwrap();
        assert_eq!((ptx.version, ptx.target), ((8, 4), 90));
        assert_eq!(ptx.kernels["one"], [8, 4]);
        assert!(ptx.kernels["two"].is_empty() && ptx.kernels["three"].is_empty());
        assert_eq!(ptx.kernels["four"], [24, 4]);
        assert_eq!(ptx.kernels.len(), 4);
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "",
            "hello",
            ".version",
            ".version x.y .target sm_90",
            ".version 8.0",
            ".version 8.0 .target sm_",
            ".version 8.0 .target sm_90 .entry k() {",
            ".version 8.0 .target sm_90 }",
            ".version 8.0 .target sm_90 .entry k(.param .u99 a) { }",
            ".version 8.0 .target sm_90 .entry k(u32 a) { }",
            ".version 8.0 .target sm_90 .entry k(.param .b8 a[38000000000000]) { }",
            ".version 8.0 .target sm_90 .entry k(.param .b8 a[32765]) { }",
            ".version 8.0 .target sm_90 .entry k(.param .b8 a[20000], .param .b8 b[20000]) { }",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn vectors_of_operands_are_no_blocks() {
        let entry = |body: &str| {
            parse(&format!(
                ".version 8.0 .target sm_90 .entry k() {{ {body} }}"
            ))
        };
        for body in [
            "ld.global.v2.f32 {%f1, %f2}, [%rd1]; mov.b32 {l, h}, %r1; ret;",
            "@%p1 st.v2.b32 [%rd1], {%r1, %r2}; L: { mov.b32 %r1, {l, h}; }",
        ] {
            assert_eq!(entry(body).unwrap().kernels.len(), 1);
        }
        for body in [
            "mov.b32 {l, h}, %r1; hello;",
            "mov.b32 {l, h",
            "{ mov.b32 {l, h}, %r1; } hello;",
        ] {
            assert!(entry(body).is_err(), "{body}");
        }
    }

    #[test]
    fn the_line_of_an_unknown_instruction_is_told() {
        let text =
            ".version 8.0\n.target sm_90 /* two\nlines */\n.entry k()\n{\n  // é\n  hello;\n}";
        let error = parse(text).unwrap_err();
        assert_eq!(error, "line 7; error: hello is not an instruction of PTX");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", tail in "[ .a-z0-9(){},\\[\\]]{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!(".version 8.0 .target sm_90 .entry k{tail}"));
        }
    }
}
