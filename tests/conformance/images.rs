//! PTX as text: what every driver takes, and what it refuses for one reason each.

/// What each image begins with, for every device since 6.0.
const HEAD: &str = ".version 6.0\n.target sm_60\n.address_size 64\n";

/// An image with these kernels, as a driver takes it.
pub fn image(kernels: &str) -> Vec<u8> {
    format!("{HEAD}{kernels}\0").into_bytes()
}

/// One kernel without arguments, `k`.
pub fn one_kernel() -> Vec<u8> {
    image(".visible .entry k() { ret; }")
}

/// Images that are in order or not, and what they are called.
pub fn good_and_bad() -> Vec<(&'static str, Vec<u8>)> {
    let plain = |text: &str| format!("{text}\0").into_bytes();
    vec![
        ("nothing", plain("")),
        ("no PTX", plain("hello")),
        ("no kernels", image("")),
        ("a kernel", one_kernel()),
        ("wrong grammar", image(".visible .entry k( { ret; }")),
        (
            "a future version",
            plain(".version 99.0\n.target sm_60\n.address_size 64\n"),
        ),
        (
            "a future target",
            plain(".version 8.0\n.target sm_999\n.address_size 64\n"),
        ),
    ]
}

/// More of them, which only modules are tried with.
pub fn more_good_and_bad() -> Vec<(&'static str, Vec<u8>)> {
    let plain = |text: &str| format!("{text}\0").into_bytes();
    vec![
        ("an open brace", image(".visible .entry k() { ret;")),
        (
            "an unknown instruction",
            image(".visible .entry k() { hello; }"),
        ),
        (
            "a newer target",
            plain(".version 8.8\n.target sm_121\n.address_size 64\n"),
        ),
        ("no target", plain(".version 6.0\n.address_size 64\n")),
        ("no version", plain(".target sm_60\n.address_size 64\n")),
    ]
}
