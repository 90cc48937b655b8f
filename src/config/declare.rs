//! How keys are declared: each once, with its type, default, kind of value, what a change of it does to a state, and docs
//! that are its comment in the template too. `section!` makes of it the struct, its defaults, its reader and its keys.

use super::section::Section;

/// What is read from a section of its own.
pub(super) trait Readable {
    /// Every key on its own; what they must be together is for the callers.
    fn read_keys(section: &Section<'_>) -> Self;
}

/// The first of one or two.
macro_rules! first {
    ($first:literal $(, $other:literal)?) => {
        $first
    };
}

/// One [`Key`](super::keys::Key).
macro_rules! key {
    ($name:ident: $type:ty, [$($doc:literal)+], $kind:expr, $change:ident $(($path:literal))?,) => {
        $crate::config::declare::key!($name: $type, [$($doc)+], $kind, $change $(($path))?, Default)
    };
    (
        $name:ident: $type:ty, [$($doc:literal)+], $kind:expr,
        $change:ident $(($path:literal))?, $look:ident $(($unset:literal))?
    ) => {
        $crate::config::keys::Key {
            name: stringify!($name),
            doc: &[$($doc),+],
            form: || $crate::config::kinds::Kind::<$type>::form(&$kind),
            change: $crate::config::keys::Change::$change $(($path))?,
            look: $crate::config::keys::Look::$look $(($unset))?,
        }
    };
}

/// A section of its own type: `key: type = default, kind, change[, look];` for each key, and sections within it behind `with`.
/// `in` says where files have it, `as` where the canonical form has, if that is elsewhere.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident in $path:literal $(as $canonical:literal)? {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($serde:meta)])?
                $key:ident: $type:ty = $default:expr, $kind:expr,
                $change:ident $(($changed:literal))? $(, $look:ident)?;
            )*
        }
        $(with {
            $( $(#[doc = $inner_doc:literal])+ $(#[serde($inner_serde:meta)])? $inner:ident: $Inner:ty, )+
        })?
    ) => {
        $(#[doc = $about])+
        #[allow(
            clippy::doc_markdown,
            rustdoc::bare_urls,
            reason = "docs are comments of a TOML file, too, and name values as it does"
        )]
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $( $(#[doc = $doc])+ $(#[serde($serde)])? pub $key: $type, )*
            $($( $(#[doc = $inner_doc])+ $(#[serde($inner_serde)])? pub $inner: $Inner, )+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* $($( $inner: <$Inner>::default(), )+)? }
            }
        }

        impl $name {
            pub(super) const PART: $crate::config::keys::Part = $crate::config::keys::Part {
                path: $path,
                canonical: $crate::config::declare::first!($($canonical,)? $path),
                doc: &[$($about),+],
                keys: &[$( $crate::config::declare::key!($key: $type, [$($doc)+], $kind, $change $(($changed))?, $($look)? ), )*],
            };
        }

        impl $crate::config::declare::Readable for $name {
            fn read_keys(section: &$crate::config::section::Section<'_>) -> Self {
                Self {
                    $( $key: $crate::config::kinds::Kind::read(&$kind, section, stringify!($key))
                        .unwrap_or_else(|| Self::default().$key), )*
                    $($( $inner: $crate::config::declare::Readable::read_keys(&section.section(stringify!($inner))), )+)?
                }
            }
        }
    };
}

/// The keys of a section that has no type of its own, and a reader of them into one that has these fields.
macro_rules! keys {
    (
        $(#[doc = $about:literal])+
        $part:ident in $path:literal, fn $reader:ident(..) -> $into:ty {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty, $kind:expr, $change:ident $(, $look:ident $(($unset:literal))?)?;
            )+
        }
    ) => {
        pub(super) const $part: $crate::config::keys::Part = $crate::config::keys::Part {
            path: $path,
            canonical: $path,
            doc: &[$($about),+],
            keys: &[$( $crate::config::declare::key!($key: $type, [$($doc)+], $kind, $change, $($look $(($unset))?)? ), )+],
        };

        fn $reader(section: &$crate::config::section::Section<'_>, mut into: $into) -> $into {
            use $crate::config::kinds::Kind;
            $( if let Some(given) = Kind::read(&$kind, section, stringify!($key)) { into.$key = given; } )+
            into
        }
    };
}

pub(super) use {first, key, keys, section};
