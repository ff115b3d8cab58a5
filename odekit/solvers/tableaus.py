"""The explicit Runge-Kutta methods: numbers and where they come from, nothing else.

First-same-as-last methods are stored without their last stage: every step of the family ends with the derivative at
the new point, so `b_err` and `weights` of those methods have one entry more than `b`.
"""

from odekit.solvers.runge_kutta import RungeKutta
from odekit.typing import Row


def _minus(b: tuple[float, ...], embedded: tuple[float, ...]) -> Row:
    """Error weights; `b` has no entry for the derivative at the new point, `embedded` may have one."""
    padded = b + (0.0,) * (len(embedded) - len(b))
    return tuple(x - y for x, y in zip(padded, embedded, strict=True))


def Euler() -> RungeKutta:
    """Explicit Euler method, order 1.

    For teaching, for flow models that were trained for it, and for crude fixed grids; any other method is cheaper at
    equal error on a smooth problem. One evaluation of f per step; no error estimate, so fixed steps only.

    Returns:
        The method.

    Example:
        >>> Euler().order
        1

    Source: Euler, Institutionum calculi integralis I, 1768; Hairer, Norsett & Wanner I, 1993, I.7.
    """
    return RungeKutta(
        order=1,
        name="Euler",
        source="Euler, Institutionum calculi integralis I, 1768",
        c=(0.0,),
        a=(),
        b=(1.0,),
    )


def Heun() -> RungeKutta:
    """Heun's method (explicit trapezoidal rule) of order 2 with embedded Euler for the error.

    For noisy, learned or discontinuous fields and loose tolerances; the usual second-order sampler of probability
    flows. Two evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> Heun().b
        (0.5, 0.5)

    Source: Heun, Z. Math. Phys. 45 (1900), 23-38.
    """
    return RungeKutta(
        order=2,
        name="Heun",
        source="Heun, Z. Math. Phys. 45 (1900), 23-38",
        c=(0.0, 1.0),
        a=((1.0,),),
        b=(1 / 2, 1 / 2),
        b_err=(-1 / 2, 1 / 2),
    )


def Midpoint() -> RungeKutta:
    """Explicit midpoint rule of order 2 with embedded Euler for the error.

    As `Heun`, with about half its error on oscillations; the one to take for comparison with other codes. Two
    evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> Midpoint().c
        (0.0, 0.5)

    Source: Runge, Math. Ann. 46 (1895), 167-178.
    """
    return RungeKutta(
        order=2,
        name="Midpoint",
        source="Runge, Math. Ann. 46 (1895), 167-178",
        c=(0.0, 1 / 2),
        a=((1 / 2,),),
        b=(0.0, 1.0),
        b_err=(-1.0, 1.0),
    )


def Ralston() -> RungeKutta:
    """Ralston's method of order 2, the two-stage method of least error bound, with embedded Euler for the error.

    The best default among second-order methods for a smooth field. Two evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> Ralston().b
        (0.25, 0.75)

    Source: Ralston, Math. Comp. 16 (1962), 431-437.
    """
    return RungeKutta(
        order=2,
        name="Ralston",
        source="Ralston, Math. Comp. 16 (1962), 431-437",
        c=(0.0, 2 / 3),
        a=((2 / 3,),),
        b=(1 / 4, 3 / 4),
        b_err=(-3 / 4, 3 / 4),
    )


def Bosh3() -> RungeKutta:
    """Bogacki-Shampine method of order 3 with an embedded method of order 2.

    For tolerances of 1e-3 and looser and for mildly stiff fields; `Tsit5` is cheaper from 1e-4 on. Three evaluations
    of f per step.

    Returns:
        The method.

    Example:
        >>> len(Bosh3().b), len(Bosh3().b_err)
        (3, 4)

    Source: Bogacki & Shampine, Appl. Math. Lett. 2 (1989), 321-325.
    """
    b = (2 / 9, 1 / 3, 4 / 9)
    return RungeKutta(
        order=3,
        name="Bosh3",
        source="Bogacki & Shampine, Appl. Math. Lett. 2 (1989), 321-325",
        c=(0.0, 1 / 2, 3 / 4),
        a=((1 / 2,), (0.0, 3 / 4)),
        b=b,
        b_err=_minus(b, (7 / 24, 1 / 4, 1 / 3, 1 / 8)),
    )


def RK4() -> RungeKutta:
    """Classical Runge-Kutta method of order 4.

    For fixed grids: stable on the imaginary axis up to 2.83, so also for wave-like equations. Four evaluations of f
    per step; no error estimate, so fixed steps only.

    Returns:
        The method.

    Example:
        >>> RK4().adaptive
        False

    Source: Kutta, Z. Math. Phys. 46 (1901), 435-453.
    """
    return RungeKutta(
        order=4,
        name="RK4",
        source="Kutta, Z. Math. Phys. 46 (1901), 435-453",
        c=(0.0, 1 / 2, 1 / 2, 1.0),
        a=((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )


def Dopri5() -> RungeKutta:
    """Dormand-Prince method of order 5 with an embedded method of order 4 and an interpolant of order 4.

    The method of MATLAB's `ode45` and SciPy's `RK45`: take it to compare with them, otherwise `Tsit5`. Six
    evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> len(Dopri5().b), len(Dopri5().b_err)
        (6, 7)

    Source: Dormand & Prince, J. Comput. Appl. Math. 6 (1980), 19-26; interpolant: Shampine, Math. Comp. 46 (1986),
    135-150.
    """
    return RungeKutta(
        order=5,
        name="Dopri5",
        source="Dormand & Prince, J. Comput. Appl. Math. 6 (1980), 19-26",
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        a=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        b_err=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        weights=(
            (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
            (0.0, 0.0, 0.0, 0.0),
            (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
            (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
            (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
            (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
            (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
        ),
    )


def Tsit5() -> RungeKutta:
    """Tsitouras' method of order 5 with an embedded method of order 4 and an interpolant of order 4.

    The default for non-stiff problems at tolerances from 1e-3 to 1e-8: as dear as `Dopri5` and several times more
    accurate. Six evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> Tsit5().order, Tsit5().adaptive
        (5, True)

    Source: Tsitouras, Comput. Math. Appl. 62 (2011), 770-775.
    """
    b = (
        0.9646076681806522951816731316512876333711995238157997181903319145764851595234062815396e-1,
        1 / 100,
        0.4798896504144995747752495322905965199130404621990332488332634944254542060153074523509,
        1.379008574103741893192274821856872770756462643091360525934940067397245698027561293331,
        -3.290069515436080679901047585711363850115683290894936158531296799594813811049925401677,
        2.324710524099773982415355918398765796109060233222962411944060046314465391054716027841,
    )
    embedded = (
        0.9468075576583945807478876255758922856117527357724631226139574065785592789071067303271e-1,
        0.9183565540343253096776363936645313759813746240984095238905939532922955247253608687270e-2,
        0.4877705284247615707855642599631228241516691959761363774365216240304071651579571959813,
        1.234297566930478985655109673884237654035539930748192848315425833500484878378061439761,
        -2.707712349983525454881109975059321670689605166938197378763992255714444407154902012702,
        1.866628418170587035753719399566211498666255505244122593996591602841258328965767580089,
        1 / 66,
    )
    return RungeKutta(
        order=5,
        name="Tsit5",
        source="Tsitouras, Comput. Math. Appl. 62 (2011), 770-775",
        c=(
            0.0,
            161 / 1000,
            327 / 1000,
            9 / 10,
            0.9800255409045096857298102862870245954942137979563024768854764293221195950761080302604,
            1.0,
        ),
        a=(
            (161 / 1000,),
            (
                -0.8480655492356988544426874250230774675121177393430391537369234245294192976164141156943e-2,
                0.3354806554923569885444268742502307746751211773934303915373692342452941929761641411569,
            ),
            (
                2.897153057105493432130432594192938764924887287701866490314866693455023795137503079289,
                -6.359448489975074843148159912383825625952700647415626703305928850207288721235210244366,
                4.362295432869581411017727318190886861027813359713760212991062156752264926097707165077,
            ),
            (
                5.325864828439256604428877920840511317836476253097040101202360397727981648835607691791,
                -11.74888356406282787774717033978577296188744178259862899288666928009020615663593781589,
                7.495539342889836208304604784564358155658679161518186721010132816213648793440552049753,
                -0.9249506636175524925650207933207191611349983406029535244034750452930469056411389539635e-1,
            ),
            (
                5.861455442946420028659251486982647890394337666164814434818157239052507339770711679748,
                -12.92096931784710929170611868178335939541780751955743459166312250439928519268343184452,
                8.159367898576158643180400794539253485181918321135053305748355423955009222648673734986,
                -0.7158497328140099722453054252582973869127213147363544882721139659546372402303777878835e-1,
                -0.2826905039406838290900305721271224146717633626879770007617876201276764571291579142206e-1,
            ),
        ),
        b=b,
        b_err=_minus(b, embedded),
        weights=(
            (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0.0, 0.1317, -0.2234, 0.1017),
            (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
            (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0.0, 1.5, -4.0, 2.5),
        ),
    )


def Dopri8() -> RungeKutta:
    """Prince-Dormand method of order 8 with an embedded method of order 7 and an interpolant of order 5.

    For float64 tolerances of 1e-8 and tighter on smooth problems; pointless in float32, whose rounding exceeds its
    error estimate. Thirteen evaluations of f per step.

    Returns:
        The method.

    Example:
        >>> len(Dopri8().b)
        13

    Source: Prince & Dormand, J. Comput. Appl. Math. 7 (1981), 67-75, RK8(7)13M; Hairer, Norsett & Wanner I, 1993,
    II.5, table 5.4; interpolant: Bogacki & Shampine, Comput. Math. Appl. 20 (1990), 15-24.
    """
    b = (
        14005451 / 335480064,
        0.0,
        0.0,
        0.0,
        0.0,
        -59238493 / 1068277825,
        181606767 / 758867731,
        561292985 / 797845732,
        -1041891430 / 1371343529,
        760417239 / 1151165299,
        118820643 / 751138087,
        -528747749 / 2220607170,
        1 / 4,
    )
    embedded = (
        13451932 / 455176623,
        0.0,
        0.0,
        0.0,
        0.0,
        -808719846 / 976000145,
        1757004468 / 5645159321,
        656045339 / 265891186,
        -3867574721 / 1518517206,
        465885868 / 322736535,
        53011238 / 667516719,
        2 / 45,
        0.0,
    )
    return RungeKutta(
        order=8,
        name="Dopri8",
        source="Prince & Dormand, J. Comput. Appl. Math. 7 (1981), 67-75",
        c=(
            0.0,
            1 / 18,
            1 / 12,
            1 / 8,
            5 / 16,
            3 / 8,
            59 / 400,
            93 / 200,
            5490023248 / 9719169821,
            13 / 20,
            1201146811 / 1299019798,
            1.0,
            1.0,
        ),
        a=(
            (1 / 18,),
            (1 / 48, 1 / 16),
            (1 / 32, 0.0, 3 / 32),
            (5 / 16, 0.0, -75 / 64, 75 / 64),
            (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
            (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
            (
                16016141 / 946692911,
                0.0,
                0.0,
                61564180 / 158732637,
                22789713 / 633445777,
                545815736 / 2771057229,
                -180193667 / 1043307555,
            ),
            (
                39632708 / 573591083,
                0.0,
                0.0,
                -433636366 / 683701615,
                -421739975 / 2616292301,
                100302831 / 723423059,
                790204164 / 839813087,
                800635310 / 3783071287,
            ),
            (
                246121993 / 1340847787,
                0.0,
                0.0,
                -37695042795 / 15268766246,
                -309121744 / 1061227803,
                -12992083 / 490766935,
                6005943493 / 2108947869,
                393006217 / 1396673457,
                123872331 / 1001029789,
            ),
            (
                -1028468189 / 846180014,
                0.0,
                0.0,
                8478235783 / 508512852,
                1311729495 / 1432422823,
                -10304129995 / 1701304382,
                -48777925059 / 3047939560,
                15336726248 / 1032824649,
                -45442868181 / 3398467696,
                3065993473 / 597172653,
            ),
            (
                185892177 / 718116043,
                0.0,
                0.0,
                -3185094517 / 667107341,
                -477755414 / 1098053517,
                -703635378 / 230739211,
                5731566787 / 1027545527,
                5232866602 / 850066563,
                -4093664535 / 808688257,
                3962137247 / 1805957418,
                65686358 / 487910083,
            ),
            (
                403863854 / 491063109,
                0.0,
                0.0,
                -5068492393 / 434740067,
                -411421997 / 543043805,
                652783627 / 914296604,
                11173962825 / 925320556,
                -13158990841 / 6184727034,
                3936647629 / 1978049680,
                -160528059 / 685178525,
                248638103 / 1413531060,
                0.0,
            ),
        ),
        b=b,
        b_err=_minus(b, embedded),
        weights=(
            (
                1.0,
                -6.6910181737837595697,
                19.9990069333683970610,
                -30.0610568289666450593,
                22.1396504998094068976,
                -6.3448349392860401388,
            ),
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (
                0.0,
                -7.6142658045872677172,
                52.2273532792945524050,
                -121.4999627731334642623,
                116.4422149550342161651,
                -39.6107919852202505218,
            ),
            (
                0.0,
                10.7281392630428866124,
                -46.8919164181093621583,
                83.1721004639847717481,
                -67.1451318825957197185,
                20.3761213808791436958,
            ),
            (
                0.0,
                0.5526637063753648783,
                -0.1890893225010595467,
                9.5724507555993664382,
                -16.5672243527496524646,
                7.3347098826795362023,
            ),
            (
                0.0,
                4.2186562625665153803,
                -35.7075975946222072821,
                87.8406057677205645007,
                -89.9916014847245016028,
                32.8801774352459155182,
            ),
            (
                0.0,
                -0.6627209125361597559,
                6.2736448083240352160,
                -17.4152107770762969005,
                22.6237489648532849093,
                -10.1588990526426760954,
            ),
            (
                0.0,
                -1.2636789001135462218,
                10.3160881272450748458,
                -28.5903289514790976966,
                32.2362340167355370113,
                -12.5401268098782561200,
            ),
            (
                0.0,
                5.4106037898590422230,
                -34.7650769866611817349,
                81.6630950584341412934,
                -82.1020315488359848644,
                29.5553001484516038033,
            ),
            (
                0.0,
                -7.0321379067945741781,
                47.7457971078225540396,
                -114.9375291377009418170,
                116.2662185791119533462,
                -41.7923486424390588923,
            ),
            (
                0.0,
                2.3537586759714983486,
                -19.0082099341608028453,
                50.2558364226176017553,
                -53.9020777466385396792,
                20.3006925822100825485,
            ),
        ),
    )
