<?xml version="1.0" encoding="UTF-8"?>
<!--
  The record as pages, for auditors: events at {base}/audit, a job as it was at {base}/audit/jobs/{id}, the
  queue as it was at {base}/audit/state, and the chain at {base}/audit/chain.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:a="urn:uwsd:audit"
    exclude-result-prefixes="a">

  <xsl:import href="page.xsl"/>

  <!-- Events -->

  <xsl:template match="/a:record">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'The record'"/>
      <xsl:with-param name="root" select="'./'"/>
      <xsl:with-param name="crumbs"><li><a href="audit" aria-current="page">The record</a></li></xsl:with-param>
      <xsl:with-param name="main">
        <h1>The record</h1>
        <p class="actions">
          <a class="button" href="audit/state">The queue as it was</a>
          <a class="button" href="audit/chain">The chain</a>
        </p>
        <form class="filter" role="search" aria-label="Which events are shown" action="audit">
          <xsl:call-template name="field"><xsl:with-param name="name" select="'JOB'"/><xsl:with-param name="label" select="'Job'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'OWNERID'"/><xsl:with-param name="label" select="'Owner'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'SERVICE'"/><xsl:with-param name="label" select="'Service'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'ACTOR'"/><xsl:with-param name="label" select="'Who caused it'"/></xsl:call-template>
          <div>
            <label for="TYPE">Type</label>
            <select id="TYPE" name="TYPE">
              <option value="">any</option>
              <xsl:for-each select="a:type">
                <option value="{.}">
                  <xsl:if test=". = ../a:filter[@name = 'TYPE']"><xsl:attribute name="selected">selected</xsl:attribute></xsl:if>
                  <xsl:value-of select="."/>
                </option>
              </xsl:for-each>
            </select>
          </div>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'SINCE'"/><xsl:with-param name="label" select="'Since (UTC)'"/><xsl:with-param name="type" select="'datetime-local'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'UNTIL'"/><xsl:with-param name="label" select="'Until (UTC)'"/><xsl:with-param name="type" select="'datetime-local'"/></xsl:call-template>
          <button>Show</button>
        </form>
        <xsl:choose>
          <xsl:when test="a:event">
            <div class="scroll" role="region" aria-label="Table of events" tabindex="0">
              <table>
                <thead>
                  <tr>
                    <th scope="col">Position</th><th scope="col">Time</th><th scope="col">What happened</th>
                    <th scope="col">By</th><th scope="col">About</th>
                  </tr>
                </thead>
                <tbody><xsl:apply-templates select="a:event" mode="row"/></tbody>
              </table>
            </div>
          </xsl:when>
          <xsl:when test="a:missing"><p><xsl:value-of select="a:missing"/></p></xsl:when>
          <xsl:otherwise><p>Nothing is on record that is like that.</p></xsl:otherwise>
        </xsl:choose>
        <xsl:if test="@first or @next">
          <nav aria-label="Pages" class="pages">
            <xsl:if test="@first">
              <xsl:call-template name="link"><xsl:with-param name="text" select="'From the beginning'"/><xsl:with-param name="url" select="@first"/></xsl:call-template>
            </xsl:if>
            <xsl:if test="@next">
              <xsl:call-template name="link"><xsl:with-param name="text" select="'Later events'"/><xsl:with-param name="url" select="@next"/></xsl:call-template>
            </xsl:if>
          </nav>
        </xsl:if>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="a:event" mode="row">
    <tr>
      <th scope="row"><xsl:value-of select="@position"/></th>
      <td>
        <xsl:call-template name="time"><xsl:with-param name="of" select="@time"/></xsl:call-template>
        <xsl:call-template name="recorded"/>
      </td>
      <td class="value"><xsl:value-of select="."/></td>
      <td class="value"><xsl:call-template name="actor"/></td>
      <td>
        <xsl:choose>
          <xsl:when test="@job"><a class="id" href="audit/jobs/{@job}?VERSION={@version}"><xsl:value-of select="@job"/></a></xsl:when>
          <xsl:otherwise><xsl:value-of select="@stream"/></xsl:otherwise>
        </xsl:choose>
      </td>
    </tr>
  </xsl:template>

  <!-- A job as it was -->

  <xsl:template match="/a:job">
    <xsl:variable name="version" select="number(@version)"/>
    <xsl:variable name="event" select="a:event[@version = $version]"/>
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat('Job ', @id, ' as it was')"/>
      <xsl:with-param name="root" select="'../../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../../audit">The record</a></li>
        <li><span aria-current="page"><xsl:value-of select="concat('Job ', @id)"/></span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1>Job <span class="id"><xsl:value-of select="@id"/></span> as it was</h1>
        <form class="filter" aria-label="After which of its events" action="./{@id}">
          <div>
            <label for="version"><xsl:value-of select="concat('After its event (1 to ', @versions, ')')"/></label>
            <input id="version" name="VERSION" type="range" min="1" max="{@versions}" value="{@version}" list="versions"/>
            <datalist id="versions">
              <xsl:for-each select="a:event"><option value="{@version}" label="{@type}"/></xsl:for-each>
            </datalist>
          </div>
          <button>Show</button>
        </form>
        <xsl:if test="number(@lasted) &gt; 0">
          <form class="filter" aria-label="At which time between its first event and its last" action="./{@id}">
            <div>
              <label for="elapsed"><xsl:value-of select="concat('Seconds after its first event (0 to ', format-number(@lasted, '0.###'), ')')"/></label>
              <input id="elapsed" name="ELAPSED" type="range" min="0" max="{@lasted}" step="any" value="{@elapsed}" list="moments"/>
              <datalist id="moments">
                <xsl:for-each select="a:event"><option value="{@elapsed}" label="{@type}"/></xsl:for-each>
              </datalist>
            </div>
            <button>Show</button>
          </form>
        </xsl:if>
        <form class="filter" aria-label="At which time" action="./{@id}">
          <xsl:call-template name="field"><xsl:with-param name="name" select="'AT'"/><xsl:with-param name="label" select="'At (UTC)'"/><xsl:with-param name="type" select="'datetime-local'"/></xsl:call-template>
          <button>Show</button>
        </form>
        <nav aria-label="Steps" class="pages">
          <xsl:choose>
            <xsl:when test="$version &gt; 1"><a href="./{@id}?VERSION={$version - 1}" rel="prev">The event before</a></xsl:when>
            <xsl:otherwise><span/></xsl:otherwise>
          </xsl:choose>
          <xsl:if test="$version &lt; number(@versions)"><a href="./{@id}?VERSION={$version + 1}" rel="next">The next event</a></xsl:if>
        </nav>
        <xsl:if test="@time">
          <p>At <xsl:call-template name="time"><xsl:with-param name="of" select="@time"/></xsl:call-template><xsl:if test="$event">, after this:</xsl:if></p>
        </xsl:if>
        <xsl:if test="$event">
          <section aria-label="The event">
            <p>
              <xsl:call-template name="time"><xsl:with-param name="of" select="$event/@time"/></xsl:call-template>
              <xsl:text> </xsl:text>
              <span class="text"><xsl:value-of select="$event"/></span>
            </p>
          </section>
        </xsl:if>
        <section aria-labelledby="document">
          <h2 id="document">Its document</h2>
          <xsl:choose>
            <xsl:when test="a:missing"><p><xsl:value-of select="a:missing"/></p></xsl:when>
            <xsl:otherwise>
              <p class="hint">As its owner saw it then; what was changed <xsl:choose><xsl:when test="@time">by the event and since</xsl:when><xsl:otherwise>by the event</xsl:otherwise></xsl:choose> is marked.</p>
              <pre tabindex="0"><xsl:apply-templates select="a:lines"/></pre>
            </xsl:otherwise>
          </xsl:choose>
        </section>
        <section aria-labelledby="events">
          <h2 id="events">All that happened to it</h2>
          <ol class="timeline">
            <xsl:for-each select="a:event">
              <li>
                <xsl:if test="@version = $version"><xsl:attribute name="aria-current">step</xsl:attribute></xsl:if>
                <a href="./{../@id}?VERSION={@version}"><xsl:call-template name="time"><xsl:with-param name="of" select="@time"/></xsl:call-template></a>
                <xsl:text> </xsl:text>
                <span class="text"><xsl:value-of select="."/></span>
                <xsl:text> </xsl:text>
                <span class="faint"><xsl:if test="@actor">by <xsl:call-template name="actor"/></xsl:if></span>
                <xsl:call-template name="recorded"/>
              </li>
            </xsl:for-each>
          </ol>
        </section>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="a:lines[@change = 'added']"><ins><xsl:value-of select="."/></ins><xsl:text>&#10;</xsl:text></xsl:template>
  <xsl:template match="a:lines[@change = 'removed']"><del><xsl:value-of select="."/></del><xsl:text>&#10;</xsl:text></xsl:template>
  <xsl:template match="a:lines"><xsl:value-of select="."/><xsl:text>&#10;</xsl:text></xsl:template>

  <!-- The queue as it was -->

  <xsl:template match="/a:state">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'The queue as it was'"/>
      <xsl:with-param name="root" select="'../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../audit">The record</a></li>
        <li><span aria-current="page">The queue as it was</span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1>The queue as it was</h1>
        <form class="filter" role="search" aria-label="When, and of whom" action="state">
          <xsl:call-template name="field"><xsl:with-param name="name" select="'AT'"/><xsl:with-param name="label" select="'At (UTC)'"/><xsl:with-param name="type" select="'datetime-local'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'SERVICE'"/><xsl:with-param name="label" select="'Service'"/></xsl:call-template>
          <xsl:call-template name="field"><xsl:with-param name="name" select="'OWNERID'"/><xsl:with-param name="label" select="'Owner'"/></xsl:call-template>
          <button>Show</button>
        </form>
        <xsl:for-each select="a:paused">
          <p>
            <xsl:choose>
              <xsl:when test=". != ''"><xsl:value-of select="concat('The queue of ', .)"/></xsl:when>
              <xsl:otherwise>The queue</xsl:otherwise>
            </xsl:choose>
            was paused since <xsl:call-template name="time"><xsl:with-param name="of" select="@since"/></xsl:call-template>.
          </p>
        </xsl:for-each>
        <section aria-labelledby="counts">
          <h2 id="counts"><xsl:value-of select="concat(sum(a:count), ' jobs')"/></h2>
          <xsl:if test="@destroyed != '0'"><p><xsl:value-of select="concat(@destroyed, ' had been destroyed.')"/></p></xsl:if>
          <xsl:if test="a:count">
            <div class="scroll" role="region" aria-label="Table of counts" tabindex="0"><table>
              <thead><tr><th scope="col">Service</th><th scope="col">Phase</th><th scope="col">Jobs</th></tr></thead>
              <tbody>
                <xsl:for-each select="a:count">
                  <tr><th scope="row"><xsl:value-of select="@service"/></th><td><span class="phase {@phase}"><xsl:value-of select="@phase"/></span></td><td class="number"><xsl:value-of select="."/></td></tr>
                </xsl:for-each>
              </tbody>
            </table></div>
          </xsl:if>
        </section>
        <xsl:apply-templates select="a:running[a:job] | a:waiting[a:job]"/>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="a:running | a:waiting">
    <xsl:variable name="waits" select="boolean(self::a:waiting)"/>
    <section aria-labelledby="{local-name()}">
      <h2 id="{local-name()}"><xsl:value-of select="concat(@of, ' ', local-name())"/></h2>
      <xsl:if test="@of &gt; count(a:job)"><p class="hint"><xsl:value-of select="concat('The first ', count(a:job), ' of them.')"/></p></xsl:if>
      <div class="scroll" role="region" aria-label="Table of jobs {local-name()}" tabindex="0">
        <table>
          <thead>
            <tr>
              <xsl:if test="$waits"><th scope="col">Place</th></xsl:if>
              <th scope="col">Job</th><th scope="col">Service</th><th scope="col">Owner</th><th scope="col">Since</th>
              <xsl:if test="$waits"><th scope="col">Why it waited</th></xsl:if>
            </tr>
          </thead>
          <tbody>
            <xsl:for-each select="a:job">
              <tr>
                <xsl:if test="$waits"><td class="number"><xsl:value-of select="@place"/></td></xsl:if>
                <th scope="row"><a class="id" href="jobs/{@job}"><xsl:value-of select="@job"/></a></th>
                <td><xsl:value-of select="@service"/></td>
                <td class="value"><xsl:value-of select="@owner"/></td>
                <td><xsl:if test="@since"><xsl:call-template name="time"><xsl:with-param name="of" select="@since"/></xsl:call-template></xsl:if></td>
                <xsl:if test="$waits"><td class="value"><xsl:value-of select="."/></td></xsl:if>
              </tr>
            </xsl:for-each>
          </tbody>
        </table>
      </div>
    </section>
  </xsl:template>

  <!-- The chain -->

  <xsl:template match="/a:chain">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'The chain'"/>
      <xsl:with-param name="root" select="'../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../audit">The record</a></li>
        <li><span aria-current="page">The chain</span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1>The chain</h1>
        <dl>
          <dt>Position of its head</dt><dd><xsl:value-of select="@position"/></dd>
          <dt>Hash of its head</dt><dd class="id"><xsl:value-of select="@hash"/></dd>
        </dl>
        <section aria-labelledby="checkpoint">
          <h2 id="checkpoint">The last checkpoint</h2>
          <xsl:for-each select="a:missing"><p><xsl:value-of select="."/></p></xsl:for-each>
          <xsl:for-each select="a:checkpoint">
            <dl>
              <dt>Signed by</dt><dd><xsl:value-of select="@origin"/></dd>
              <dt>At</dt><dd><xsl:call-template name="time"><xsl:with-param name="of" select="@time"/></xsl:call-template></dd>
              <dt>Position</dt><dd><xsl:value-of select="@position"/></dd>
              <dt>Hash</dt><dd class="id"><xsl:value-of select="@hash"/></dd>
              <dt>What the log has there</dt><dd><xsl:value-of select="@found"/></dd>
            </dl>
            <p class="hint">Keep it elsewhere: with it, <code>uwsd audit verify --checkpoint FILE</code> shows that nothing up to there was changed or cut off since.</p>
            <pre tabindex="0"><xsl:value-of select="."/></pre>
          </xsl:for-each>
        </section>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <!-- What they share -->

  <xsl:template name="field">
    <xsl:param name="name"/>
    <xsl:param name="label"/>
    <xsl:param name="type" select="'text'"/>
    <xsl:variable name="value" select="a:filter[@name = $name]"/>
    <div>
      <label for="{$name}"><xsl:value-of select="$label"/></label>
      <input id="{$name}" name="{$name}" type="{$type}" value="{$value}">
        <xsl:if test="$type = 'datetime-local'">
          <xsl:attribute name="step">0.001</xsl:attribute>
          <!-- What is finer than browsers can show stays as it is. -->
          <xsl:if test="string-length($value) &gt; 23"><xsl:attribute name="type">text</xsl:attribute></xsl:if>
        </xsl:if>
      </input>
    </div>
  </xsl:template>

  <xsl:template name="actor">
    <xsl:choose>
      <xsl:when test="@actor = 'uwsd'">the server</xsl:when>
      <xsl:otherwise><xsl:value-of select="@actor"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template name="recorded">
    <xsl:if test="@recorded">
      <span class="faint"> (recorded <xsl:call-template name="time"><xsl:with-param name="of" select="@recorded"/></xsl:call-template>)</span>
    </xsl:if>
  </xsl:template>

</xsl:stylesheet>
