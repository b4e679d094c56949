//! Reads generated bindings: layouts, constants, type names, signatures, as plain numbers and text.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
};

use quote::ToTokens;
use serde_json::{Map, Value, json};
use syn::{BinOp, Expr, ExprLit, Fields, File, Item, Lit, Stmt, Type};

/// A struct or union, with the fields of its anonymous members as its own.
pub struct Layout {
    pub is_union: bool,
    pub size: u64,
    pub align: u64,
    pub fields: Vec<Field>,
}

/// One field.
pub struct Field {
    /// As C names it from the struct: `clusterDim.x`.
    pub c_path: String,
    /// As Rust names it, anonymous members included.
    pub rust_path: String,
    /// Its Rust type.
    pub rust_type: String,
    pub offset: u64,
}

/// bindgen's record of each type before it was flattened.
struct Raw<'a> {
    is_union: bool,
    size: u64,
    align: u64,
    offsets: BTreeMap<String, u64>,
    fields: Vec<(String, &'a Type)>,
}

/// Every struct and union whose layout the header shows, by name.
pub fn layouts(file: &File) -> Result<BTreeMap<String, Layout>, Box<dyn Error>> {
    let raw = raw_layouts(file)?;
    let mut layouts = BTreeMap::new();
    for (name, root) in &raw {
        if name.contains("__bindgen_ty_") {
            continue; // part of the type that contains it
        }
        let mut layout = Layout {
            is_union: root.is_union,
            size: root.size,
            align: root.align,
            fields: Vec::new(),
        };
        flatten(&raw, root, ["", ""], 0, &mut layout.fields)?;
        layouts.insert(name.clone(), layout);
    }
    Ok(layouts)
}

fn flatten(
    raw: &BTreeMap<String, Raw<'_>>,
    of: &Raw<'_>,
    [c_prefix, rust_prefix]: [&str; 2],
    start: u64,
    fields: &mut Vec<Field>,
) -> Result<(), Box<dyn Error>> {
    for (name, kind) in &of.fields {
        let offset = start
            + of.offsets
                .get(name)
                .ok_or(format!("{name} has no offset"))?;
        let rust_type = text(kind);
        let rust_path = format!("{rust_prefix}{name}");
        let nested = raw
            .get(&rust_type)
            .filter(|_| rust_type.contains("__bindgen_ty_"));
        let anonymous = nested.is_some() && name.starts_with("__bindgen_anon_");
        let c_path = if anonymous {
            c_prefix.to_owned()
        } else {
            format!("{c_prefix}{}", c_name(name))
        };
        if let Some(nested) = nested {
            let dot = if anonymous { "" } else { "." };
            let prefixes = [&*format!("{c_path}{dot}"), &*format!("{rust_path}.")];
            flatten(raw, nested, prefixes, offset, fields)?;
        }
        if !anonymous {
            fields.push(Field {
                c_path,
                rust_path,
                rust_type,
                offset,
            });
        }
    }
    Ok(())
}

/// bindgen marks C names that are Rust keywords with an underscore. (`default_` is the header's own.)
fn c_name(name: &str) -> &str {
    match name.strip_suffix('_') {
        Some(base @ ("type" | "ref" | "mod" | "in")) => base,
        _ => name,
    }
}

fn raw_layouts(file: &File) -> Result<BTreeMap<String, Raw<'_>>, Box<dyn Error>> {
    let numbers = layout_numbers(file)?;
    let mut raw = BTreeMap::new();
    for item in &file.items {
        let (name, fields, is_union) = match item {
            Item::Struct(item) => match &item.fields {
                Fields::Named(fields) => (&item.ident, fields, false),
                _ => continue, // the integers that stand for enums
            },
            Item::Union(item) => (&item.ident, &item.fields, true),
            _ => continue,
        };
        let name = name.to_string();
        // A type without a layout is opaque: only pointers to it are used.
        let Some(size) = numbers.get(&format!("Size of {name}")) else {
            continue;
        };
        let align = numbers
            .get(&format!("Alignment of {name}"))
            .ok_or(format!("{name} has no alignment"))?;
        let fields: Vec<_> = fields
            .named
            .iter()
            .filter_map(|field| Some((field.ident.as_ref()?.to_string(), &field.ty)))
            .collect();
        let prefix = format!("Offset of field: {name}::");
        let mut offsets: BTreeMap<String, u64> = numbers
            .iter()
            .filter_map(|(what, n)| Some((what.strip_prefix(&prefix)?.to_owned(), *n)))
            .collect();
        if !is_union && fields.len() == 1 {
            // bindgen states no offset for a lone anonymous member.
            offsets.entry(fields[0].0.clone()).or_insert(0);
        }
        place_anonymous(&mut offsets, &fields, is_union, &numbers);
        let (size, align) = (*size, *align);
        raw.insert(
            name,
            Raw {
                is_union,
                size,
                align,
                offsets,
                fields,
            },
        );
    }
    Ok(raw)
}

/// Gives anonymous members their offsets, of which bindgen states none: C puts each at the end of the
/// field before it, rounded up to the member's alignment.
fn place_anonymous(
    offsets: &mut BTreeMap<String, u64>,
    fields: &[(String, &Type)],
    is_union: bool,
    numbers: &BTreeMap<String, u64>,
) {
    for (index, (name, kind)) in fields.iter().enumerate() {
        if offsets.contains_key(name) {
            continue;
        }
        let number = |what: &str| numbers.get(&format!("{what} of {}", text(kind))).copied();
        let Some(align) = number("Alignment") else {
            continue;
        };
        let end = match index.checked_sub(1).filter(|_| !is_union) {
            None => 0,
            Some(before) => {
                let (name, kind) = &fields[before];
                let start = offsets.get(name).copied().unwrap_or(0);
                let size = numbers.get(&format!("Size of {}", text(kind))).copied();
                start + size.or_else(|| plain_size(kind)).unwrap_or(0)
            }
        };
        offsets.insert(name.clone(), end.div_ceil(align.max(1)) * align.max(1));
    }
}

/// The size of what stands before an anonymous member in these headers: integers, enums, arrays of bytes.
fn plain_size(kind: &Type) -> Option<u64> {
    match kind {
        Type::Array(array) => Some(plain_size(&array.elem)? * number(&array.len)?),
        _ if text(kind).ends_with("char") => Some(1),
        _ => Some(4),
    }
}

/// Each number that bindgen's own layout assertions state, by what they say it is.
fn layout_numbers(file: &File) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let mut numbers = BTreeMap::new();
    for item in &file.items {
        let Item::Const(item) = item else { continue };
        let Expr::Block(block) = &*item.expr else {
            continue;
        };
        for statement in &block.block.stmts {
            let Stmt::Expr(Expr::Index(index), _) = statement else {
                continue;
            };
            let (Expr::Array(array), Expr::Binary(binary)) = (&*index.expr, &*index.index) else {
                continue;
            };
            let (Some(Expr::Lit(what)), BinOp::Sub(_)) = (array.elems.first(), &binary.op) else {
                continue;
            };
            if let (Lit::Str(what), Some(n)) = (&what.lit, number(&binary.right)) {
                numbers.insert(what.value(), n);
            }
        }
    }
    if numbers.is_empty() {
        return Err("bindgen's layout assertions have another form than this reads".into());
    }
    Ok(numbers)
}

fn number(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Lit(ExprLit {
            lit: Lit::Int(n), ..
        }) => n.base10_parse().ok(),
        _ => None,
    }
}

/// Layouts for the tests.
pub fn layouts_json(layouts: &BTreeMap<String, Layout>) -> Value {
    layouts
        .iter()
        .map(|(name, layout)| {
            let fields: Map<String, Value> = layout
                .fields
                .iter()
                .map(|field| (field.c_path.clone(), field.offset.into()))
                .collect();
            let layout = json!({ "size": layout.size, "align": layout.align, "fields": fields });
            (name.clone(), layout)
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Rust source: what rustc makes of each committed type. It is an expression for the tests to include.
pub fn rust_layouts(layouts: &BTreeMap<String, Layout>) -> String {
    let mut source = String::from("&[\n");
    for (name, layout) in layouts {
        // Writing to a String cannot fail.
        let _ = writeln!(
            source,
            "Rust {{ name: \"{name}\", size: size_of::<{name}>(), align: align_of::<{name}>(), fields: &["
        );
        for field in &layout.fields {
            let _ = writeln!(
                source,
                "(\"{}\", std::mem::offset_of!({name}, {}), size_of::<{}>()),",
                field.c_path, field.rust_path, field.rust_type
            );
        }
        source.push_str("] },\n");
    }
    source.push_str("]\n");
    source
}

/// Each constant and its value: `CUresult::…` for those of an enum.
pub fn constants(file: &File) -> Value {
    let mut constants = Map::new();
    for item in &file.items {
        match item {
            Item::Const(item) if item.ident != "_" => {
                constants.insert(item.ident.to_string(), text(&item.expr).into());
            }
            Item::Impl(item) => {
                for member in &item.items {
                    if let syn::ImplItem::Const(member) = member {
                        let value = match &member.expr {
                            Expr::Call(call) => call.args.first().map(text),
                            other => Some(text(other)),
                        };
                        let name = format!("{}::{}", text(&item.self_ty), member.ident);
                        constants.insert(name, value.into());
                    }
                }
            }
            _ => {}
        }
    }
    constants.into()
}

/// Each type name that stands for another, and each enum's integer.
pub fn aliases(file: &File) -> Value {
    let mut aliases = Map::new();
    for item in &file.items {
        match item {
            Item::Type(item) => {
                aliases.insert(item.ident.to_string(), text(&item.ty).into());
            }
            Item::Struct(item) => {
                if let (Fields::Unnamed(fields), name) = (&item.fields, item.ident.to_string()) {
                    aliases.insert(name, fields.unnamed.first().map(|f| text(&f.ty)).into());
                }
            }
            _ => {}
        }
    }
    aliases.into()
}

/// Each function's parameters, as `[name, type]`.
pub fn functions(file: &File) -> Value {
    let mut functions = Map::new();
    for item in &file.items {
        let Item::ForeignMod(block) = item else {
            continue;
        };
        for item in &block.items {
            let syn::ForeignItem::Fn(function) = item else {
                continue;
            };
            let parameters: Vec<Value> = function
                .sig
                .inputs
                .iter()
                .filter_map(|input| match input {
                    syn::FnArg::Typed(input) => Some(json!([text(&input.pat), text(&input.ty)])),
                    syn::FnArg::Receiver(_) => None,
                })
                .collect();
            functions.insert(function.sig.ident.to_string(), parameters.into());
        }
    }
    functions.into()
}

/// For each name that `cuGetProcAddress` knows, the versions that brought it a new ABI, oldest first:
/// `cudaTypedefs.h` has a type `PFN_<name>_v<version>` for each.
pub fn versions(typedefs: &str) -> Value {
    let mut versions: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for rest in typedefs.split("*PFN_").skip(1) {
        // `…_ptsz` and `…_ptds` are the same functions for per-thread default streams.
        let name = rest.split(')').next().unwrap_or_default().trim();
        if let Some((name, version)) = name.rsplit_once("_v")
            && let Ok(version) = version.parse()
        {
            versions.entry(name).or_default().insert(version);
        }
    }
    json!(versions)
}

/// The file as text in one formatting, whatever formatted it before: rustfmt sorts the `use`s.
pub fn normalised(mut file: File) -> String {
    file.items
        .sort_by_cached_key(|item| (matches!(item, Item::Use(_)), use_name(item)));
    prettyplease::unparse(&file)
}

fn use_name(item: &Item) -> String {
    match item {
        Item::Use(item) => text(item),
        _ => String::new(), // the sort is stable: all others keep their places
    }
}

/// Rust tokens as text, without spaces and long paths, so that the same type is the same text.
fn text(tokens: &impl ToTokens) -> String {
    tokens
        .to_token_stream()
        .to_string()
        .replace(' ', "")
        .replace("::std::os::raw::", "")
        .replace("*mut", "*mut ")
        .replace("*const", "*const ")
}
