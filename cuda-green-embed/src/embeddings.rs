//! The vectors of a batch of texts.

/// Vectors of equal dimension, one for each text of a batch, in the batch's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    dimension: usize,
    values: Vec<f32>,
}

impl Embeddings {
    /// Makes them from their values, one vector after another. Values at the end that do not fill a vector are
    /// dropped.
    pub fn new(dimension: usize, mut values: Vec<f32>) -> Self {
        values.truncate(values.len() - values.len() % dimension.max(1));
        Self { dimension, values }
    }

    /// Returns the number of values in a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Returns the number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dimension.max(1)
    }

    /// Returns whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the vector of a text.
    pub fn get(&self, text: usize) -> Option<&[f32]> {
        let start = text.checked_mul(self.dimension)?;
        self.values.get(start..start.checked_add(self.dimension)?)
    }

    /// Returns the vectors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension.max(1))
    }

    /// Returns the values of all vectors, one vector after another.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns the values of all vectors, one vector after another.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}
