from libc.stdint cimport int64_t

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_type: FC_F32, FC_F64
    ctypedef enum fc_status: FC_OK, FC_MORE, FC_CANNOT, FC_NO_ISA, FC_NO_ALGO
    ctypedef enum fc_activation: FC_IDENTITY, FC_ACTIVATIONS
    ctypedef enum fc_residual: FC_NO_RESIDUAL, FC_RESIDUAL_FIRST, FC_RESIDUAL_LAST
    ctypedef enum fc_pool_kind: FC_POOL_MAX, FC_POOL_AVERAGE, FC_POOL_SUM
    enum: FC_ALIGN, FC_MAX_PARTS

    ctypedef struct fc_prologue:
        int scaled
        fc_activation activation
        double a, b

    ctypedef struct fc_conv_problem:
        fc_type type
        int transposed
        ptrdiff_t batch, ic, oc, groups
        ptrdiff_t size[3]
        ptrdiff_t kernel[3]
        ptrdiff_t stride[3]
        ptrdiff_t dilation[3]
        ptrdiff_t pad[3]
        ptrdiff_t out_size[3]
        ptrdiff_t x_stride[5]
        ptrdiff_t y_stride[5]
        ptrdiff_t w_stride[5]
        fc_activation activation
        double a, b
        fc_residual residual
        fc_prologue prologue

    ctypedef struct fc_pool_problem:
        fc_type type
        fc_pool_kind kind
        int adaptive, count_include_pad
        ptrdiff_t divisor, batch, channels
        ptrdiff_t size[3]
        ptrdiff_t kernel[3]
        ptrdiff_t stride[3]
        ptrdiff_t dilation[3]
        ptrdiff_t pad[3]
        ptrdiff_t pad_after[3]
        ptrdiff_t out_size[3]
        ptrdiff_t x_stride[5]
        ptrdiff_t y_stride[5]
        int indices
        ptrdiff_t i_stride[5]

    ctypedef struct fc_map_problem:
        fc_type type
        fc_activation activation
        double a, b
        fc_residual residual
        ptrdiff_t rows, row, channels
        ptrdiff_t x_row, residual_row, y_row

    ctypedef enum fc_norm_kind: FC_SOFTMAX, FC_LOCAL_RESPONSE, FC_LAYER_NORM

    ctypedef struct fc_norm_problem:
        fc_type type
        fc_norm_kind kind
        ptrdiff_t batch, channels, row, before, after
        double scale, bias

    ctypedef struct fc_options:
        int isa
        const char *algorithm
        int threads, max_threads, packed

    ctypedef struct fc_buffers:
        const void *x
        const void *w
        const void *bias
        const void *residual
        const void *scale
        const void *shift
        void *y
        int64_t *indices
        void *workspace

    ctypedef struct fc_work:
        ptrdiff_t items
        int parts
        size_t workspace_bytes
        double flops, bytes

    ctypedef struct fc_conv_plan:
        fc_work work
        size_t packed_bytes

    ctypedef struct fc_pool_plan:
        fc_work work

    ctypedef struct fc_map_plan:
        fc_work work

    ctypedef struct fc_norm_plan:
        fc_work work

    int fc_isa_count()
    const char *fc_isa_name(int)
    int fc_isa_runs(int)
    int fc_isa_best()
    int fc_algo_count()
    const char *fc_algo_name(int)
    const char *fc_algo_precision(int)
    fc_status fc_conv_plan_make(const fc_conv_problem *, const fc_options *, fc_conv_plan *)
    const char *fc_conv_cannot(const fc_conv_plan *, int)
    const char *fc_conv_should_not(const fc_conv_plan *, int)
    int fc_conv_algo(const fc_conv_plan *)
    int fc_conv_form(const fc_conv_plan *)
    void fc_conv_pack(const fc_conv_plan *, const void *, void *)
    ptrdiff_t fc_conv_pack_unit(const fc_conv_plan *)
    void fc_conv_pack_piece(const fc_conv_plan *, const void *, void *, ptrdiff_t, ptrdiff_t)
    fc_status fc_pool_plan_make(const fc_pool_problem *, const fc_options *, fc_pool_plan *)
    fc_status fc_map_plan_make(const fc_map_problem *, const fc_options *, fc_map_plan *)
    fc_status fc_norm_plan_make(const fc_norm_problem *, const fc_options *, fc_norm_plan *)
    ctypedef const fc_work *fc_step(const void *, int, fc_buffers *) noexcept nogil
    fc_status fc_run_steps(fc_step *, const void *, int, int, int *, ptrdiff_t *, double)
    ptrdiff_t fc_unpool(size_t, ptrdiff_t, const void *, const int64_t *, ptrdiff_t, void *)
    double fc_clock()
    int fc_openmp()
    int fc_max_threads()
    int fc_processors()
    void fc_before_fork()
    void fc_after_fork(int child)
    double fc_fma_burn(int, fc_type, int, ptrdiff_t)
